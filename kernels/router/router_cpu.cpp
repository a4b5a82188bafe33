#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/router/router.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 12;  // logits a task

int64_t tokens_a_task(int64_t experts) { return std::max<int64_t>(1, kGrain / experts); }
int64_t tasks_of(int64_t tokens, int64_t experts) { return (tokens + tokens_a_task(experts) - 1) / tokens_a_task(experts); }

// ---- one token. Experts that cannot be chosen (any more) score -infinity; all others a finite number, also where a logit is not.

template <class W>
constexpr W kOut = -std::numeric_limits<W>::infinity();

template <class W>
inline W finite(W x) {
  constexpr W kMost = std::numeric_limits<W>::max();
  return x >= -kMost ? std::min(x, kMost) : -kMost;
}

template <class W>
inline W largest(int64_t n, const W* x) {
  W best = x[0];
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

template <class W>
inline int64_t first_largest(int64_t n, const W* x) {
  const W best = largest(n, x);
  int64_t i = 0;
  while (x[i] != best) ++i;
  return i;
}

template <class W>
inline W sum_exp(int64_t n, const W* x, W offset) {
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += fast_exp(x[i] - offset);
  return sum;
}

// p = softmax(logits); returns logsumexp.
template <class W>
inline W softmax(int64_t n, const W* logits, W* p) {
  const W top = largest(n, logits), sum = sum_exp(n, logits, top);
  for (int64_t e = 0; e < n; ++e) p[e] = fast_exp(logits[e] - top) / sum;
  return top + std::log(sum);
}

template <class W>
inline W two_largest(int64_t n, const W* x) {
  W first = x[0], second = 0;
  for (int64_t i = 1; i < n; ++i) {
    const W lower = std::min(first, x[i]);
    second = i == 1 ? lower : std::max(second, lower);
    first = std::max(first, x[i]);
  }
  return first + second;
}

// Takes the experts of all but the best groups out.
template <class W>
inline void limit_groups(int64_t experts, const RouterOptions& options, W* score, W* group_score) {
  const int64_t groups = options.groups, width = experts / groups;
  if (groups == options.top_groups) return;
  for (int64_t g = 0; g < groups; ++g) group_score[g] = finite(two_largest(width, score + g * width));
  for (int64_t i = 0; i < options.top_groups; ++i) group_score[first_largest(groups, group_score)] = kOut<W>;  // these stay
  for (int64_t g = 0; g < groups; ++g)
    if (group_score[g] != kOut<W>) std::fill_n(score + g * width, width, kOut<W>);
}

template <class W>
inline void choose(int64_t experts, const W* logits, const W* bias, const RouterOptions& options, W* score, int64_t* chosen) {
  if (options.type == RouterType::kSigmoidBias) {
    for (int64_t e = 0; e < experts; ++e) score[e] = finite(sigmoid(logits[e]) + bias[e]);
    limit_groups(experts, options, score, score + experts);
  } else {
    for (int64_t e = 0; e < experts; ++e) score[e] = finite(logits[e]);
  }
  for (int64_t slot = 0; slot < options.top_k; ++slot) {
    chosen[slot] = first_largest(experts, score);
    score[chosen[slot]] = kOut<W>;
  }
}

// Whether the weights are a softmax over the chosen logits: that is what renormalised probabilities are, too.
inline bool softmax_of_chosen(const RouterOptions& options) {
  return options.type == RouterType::kTopkSoftmax || (options.type == RouterType::kSoftmaxTopk && options.renorm);
}

template <class W>
inline W sum_of_sigmoids(int64_t k, const W* logits, const int64_t* chosen) {
  W sum = 0;
  for (int64_t slot = 0; slot < k; ++slot) sum += sigmoid(logits[chosen[slot]]);
  return sum + W(1e-20);
}

template <class W>
inline void weigh(int64_t experts, const W* logits, const int64_t* chosen, const RouterOptions& options, W* weight) {
  const int64_t k = options.top_k;
  const W scale = static_cast<W>(options.scale);
  if (options.type == RouterType::kSigmoidTop1) {
    weight[0] = scale * sigmoid(logits[chosen[0]]);
  } else if (options.type == RouterType::kSigmoidBias) {
    const W sum = sum_of_sigmoids(k, logits, chosen);
    for (int64_t slot = 0; slot < k; ++slot) weight[slot] = scale * sigmoid(logits[chosen[slot]]) / sum;
  } else {
    const W top = logits[chosen[0]];
    W sum = 0;
    for (int64_t slot = 0; slot < k; ++slot) sum += weight[slot] = fast_exp(logits[chosen[slot]] - top);
    if (!softmax_of_chosen(options)) sum = sum_exp(experts, logits, top);
    for (int64_t slot = 0; slot < k; ++slot) weight[slot] *= scale / sum;
  }
}

// dlogits from dweight; `p` has room for one number an expert.
template <class W>
inline void weigh_backward(int64_t experts, const W* logits, const int64_t* chosen, const RouterOptions& options, const W* dweight,
                           W* dlogits, W* p) {
  const int64_t k = options.top_k;
  const W scale = static_cast<W>(options.scale);
  std::fill_n(dlogits, experts, W(0));
  if (options.type == RouterType::kSigmoidTop1) {
    const W s = sigmoid(logits[chosen[0]]);
    dlogits[chosen[0]] = scale * dweight[0] * s * (1 - s);
    return;
  }
  if (options.type == RouterType::kSigmoidBias) {
    const W sum = sum_of_sigmoids(k, logits, chosen);
    W mean = 0;
    for (int64_t slot = 0; slot < k; ++slot) mean += dweight[slot] * sigmoid(logits[chosen[slot]]) / sum;
    for (int64_t slot = 0; slot < k; ++slot) {
      const W s = sigmoid(logits[chosen[slot]]);
      dlogits[chosen[slot]] = scale * (dweight[slot] - mean) / sum * s * (1 - s);
    }
    return;
  }
  RouterOptions unscaled = options;
  unscaled.scale = 1;
  weigh(experts, logits, chosen, unscaled, p);  // the weights, by slot
  W mean = 0;
  for (int64_t slot = 0; slot < k; ++slot) mean += dweight[slot] * p[slot];
  if (softmax_of_chosen(options)) {
    for (int64_t slot = 0; slot < k; ++slot) dlogits[chosen[slot]] = scale * p[slot] * (dweight[slot] - mean);
    return;
  }
  for (int64_t slot = 0; slot < k; ++slot) dlogits[chosen[slot]] = scale * p[slot] * dweight[slot];
  softmax(experts, logits, p);
  for (int64_t e = 0; e < experts; ++e) dlogits[e] -= scale * p[e] * mean;
}

// ---- the tokens [begin, end)

template <class W>
struct RouteArgs {
  int64_t experts;
  const W *logits, *bias;
  const int64_t* assigned;  // null: nothing is
  W* weight;
  int64_t* expert;
  RouterOptions options;
};

template <class W>
void route_tokens(RouteArgs<W> args, W* scratch, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const W* logits = args.logits + t * args.experts;
    int64_t* chosen = args.expert + t * args.options.top_k;
    if (args.assigned)
      chosen[0] = args.assigned[t];
    else
      choose(args.experts, logits, args.bias, args.options, scratch, chosen);
    weigh(args.experts, logits, chosen, args.options, args.weight + t * args.options.top_k);
  }
}

template <class W>
struct RouteBackwardArgs {
  int64_t experts;
  const W *logits, *dweight;
  const int64_t* expert;
  W* dlogits;
  RouterOptions options;
};

template <class W>
void route_backward_tokens(RouteBackwardArgs<W> args, W* scratch, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t)
    weigh_backward(args.experts, args.logits + t * args.experts, args.expert + t * args.options.top_k, args.options,
                   args.dweight + t * args.options.top_k, args.dlogits + t * args.experts, scratch);
}

// Calls work(scratch, begin, end) for ranges of tokens; each task has room for two numbers an expert.
template <class W, class Work>
void for_token_ranges(const Tensor& logits, const Work& work) {
  const int64_t experts = logits.dim(-1), tokens = logits.numel() / experts, grain = tokens_a_task(experts);
  const Tensor scratch = Tensor::empty({tasks_of(tokens, experts), 2 * experts}, logits.dtype());
  W* const room = scratch.data<W>();
  parallel_ranges(tokens, grain, [&](int64_t begin, int64_t end) { work(room + begin / grain * 2 * experts, begin, end); });
}

template <class W>
void forward(const RouteForward& args) {
  const RouteArgs<W> all{.experts = args.logits.dim(-1),
                         .logits = args.logits.data<W>(),
                         .bias = args.bias ? args.bias.data<W>() : nullptr,
                         .assigned = args.assigned ? args.assigned.data<int64_t>() : nullptr,
                         .weight = args.weight.data<W>(),
                         .expert = args.expert.data<int64_t>(),
                         .options = args.options};
  for_token_ranges<W>(args.logits, [&](W* scratch, int64_t begin, int64_t end) { vectorized<route_tokens<W>>(all, scratch, begin, end); });
}

template <class W>
void backward(const RouteBackward& args) {
  const RouteBackwardArgs<W> all{.experts = args.logits.dim(-1),
                                 .logits = args.logits.data<W>(),
                                 .dweight = args.dweight.data<W>(),
                                 .expert = args.expert.data<int64_t>(),
                                 .dlogits = args.dlogits.data<W>(),
                                 .options = args.options};
  for_token_ranges<W>(args.logits,
                      [&](W* scratch, int64_t begin, int64_t end) { vectorized<route_backward_tokens<W>>(all, scratch, begin, end); });
}

// ---- losses

// What the losses of a row's token are made of: balance (E / T) sum_e f_e q_e + (z / T) logsumexp^2.
template <class W>
struct LossArgs {
  int64_t experts;
  const W* logits;  // of the row
  const W* pull;    // [E]: balance E / T f_e
  W z;              // z / T
  bool sigmoid;     // q = s / sum s, not softmax
};

// q of the balance loss from the logits; returns logsumexp.
template <class W>
inline W shares(const LossArgs<W>& args, const W* logits, W* q) {
  const W log_sum_exp = softmax(args.experts, logits, q);
  if (!args.sigmoid) return log_sum_exp;
  W sum = 0;
  for (int64_t e = 0; e < args.experts; ++e) sum += q[e] = sigmoid(logits[e]);
  for (int64_t e = 0; e < args.experts; ++e) q[e] /= sum;
  return log_sum_exp;
}

template <class W>
inline W dot(int64_t n, const W* x, const W* y) {
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

template <class W>
double loss_of_tokens(LossArgs<W> args, W* q, int64_t begin, int64_t end) {
  double loss = 0;
  for (int64_t t = begin; t < end; ++t) {
    const W log_sum_exp = shares(args, args.logits + t * args.experts, q);
    loss += static_cast<double>(dot(args.experts, args.pull, q) + args.z * log_sum_exp * log_sum_exp);
  }
  return loss;
}

template <class W>
void loss_backward_tokens(LossArgs<W> args, W dloss, W* q, W* dlogits, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const W* logits = args.logits + t * args.experts;
    W* d = dlogits + t * args.experts;
    const W log_sum_exp = shares(args, logits, q), mean = dot(args.experts, args.pull, q), z = 2 * args.z * log_sum_exp;
    for (int64_t e = 0; e < args.experts; ++e) {
      const W slope = args.sigmoid ? 1 - sigmoid(logits[e]) : W(1), p = args.sigmoid ? fast_exp(logits[e] - log_sum_exp) : q[e];
      d[e] = dloss * (q[e] * slope * (args.pull[e] - mean) + z * p);
    }
  }
}

// [B, E]: how strongly the balance loss pulls at each expert's share.
template <class W>
Tensor pulls(const Tensor& load_BE, const RouterLossOptions& options) {
  const int64_t rows = load_BE.dim(0), experts = load_BE.dim(1);
  const Tensor pull_BE = Tensor::empty(load_BE.shape(), dtype_of<W>());
  for (int64_t b = 0; b < rows; ++b) {
    const double* load = load_BE.data<double>() + b * experts;
    double sum = 0;
    for (int64_t e = 0; e < experts; ++e) sum += load[e];
    const double a_share = options.balance * static_cast<double>(experts) / static_cast<double>(options.tokens);
    for (int64_t e = 0; e < experts; ++e) pull_BE.data<W>()[b * experts + e] = static_cast<W>(sum > 0 ? a_share * load[e] / sum : 0);
  }
  return pull_BE;
}

// Calls work(row's LossArgs, room for a number an expert, task, begin, end) for ranges of tokens of each row.
template <class W, class Work>
void for_row_ranges(const Tensor& logits_BSE, const Tensor& load_BE, const RouterLossOptions& options, const Work& work) {
  const int64_t rows = logits_BSE.dim(0), tokens = logits_BSE.dim(1), experts = logits_BSE.dim(2);
  const int64_t grain = tokens_a_task(experts), tasks_a_row = tasks_of(tokens, experts);
  const Tensor pull_BE = pulls<W>(load_BE, options), scratch = Tensor::empty({rows * tasks_a_row, experts}, dtype_of<W>());
  const W *const logits = logits_BSE.data<W>(), *const pull = pull_BE.data<W>();
  W* const room = scratch.data<W>();
  parallel_for(rows * tasks_a_row, [&](int64_t task) {
    const int64_t row = task / tasks_a_row, begin = task % tasks_a_row * grain;
    const LossArgs<W> args{.experts = experts,
                           .logits = logits + row * tokens * experts,
                           .pull = pull + row * experts,
                           .z = static_cast<W>(options.z / static_cast<double>(options.tokens)),
                           .sigmoid = options.type == RouterType::kSigmoidBias || options.type == RouterType::kSigmoidTop1};
    work(args, room + task * experts, task, row, begin, std::min(tokens, begin + grain));
  });
}

template <class W>
void loss_forward(const RouterLossForward& args) {
  const int64_t rows = args.logits_BSE.dim(0), tasks = rows * tasks_of(args.logits_BSE.dim(1), args.logits_BSE.dim(2));
  std::vector<double> partial(static_cast<size_t>(tasks));
  for_row_ranges<W>(args.logits_BSE, args.load_BE, args.options,
                    [&](const LossArgs<W>& row_args, W* q, int64_t task, int64_t, int64_t begin, int64_t end) {
                      partial[static_cast<size_t>(task)] = vectorized<loss_of_tokens<W>>(row_args, q, begin, end);
                    });
  *args.loss.data<double>() = std::accumulate(partial.begin(), partial.end(), 0.0);
}

template <class W>
void loss_backward(const RouterLossBackward& args) {
  const int64_t row_numel = args.logits_BSE.dim(1) * args.logits_BSE.dim(2);
  W* const dlogits = args.dlogits_BSE.data<W>();
  const W dloss = static_cast<W>(*args.dloss.data<double>());
  for_row_ranges<W>(args.logits_BSE, args.load_BE, args.options,
                    [&](const LossArgs<W>& row_args, W* q, int64_t, int64_t row, int64_t begin, int64_t end) {
                      vectorized<loss_backward_tokens<W>>(row_args, dloss, q, dlogits + row * row_numel, begin, end);
                    });
}

template <class Body>
void for_wide(DType dtype, const Body& body) {
  dtype == DType::kFloat64 ? body(std::type_identity<double>{}) : body(std::type_identity<float>{});
}

}  // namespace

void launch(Cpu, const RouteForward& args) {
  for_wide(args.logits.dtype(), [&]<class W>(std::type_identity<W>) { forward<W>(args); });
}

void launch(Cpu, const RouteBackward& args) {
  for_wide(args.logits.dtype(), [&]<class W>(std::type_identity<W>) { backward<W>(args); });
}

void launch(Cpu, const ExpertLoads& args) {
  const int64_t rows = args.load_BE.dim(0), experts = args.load_BE.dim(1), choices = args.expert_BSk.numel() / std::max<int64_t>(1, rows);
  args.load_BE.fill(0);
  double* const load = args.load_BE.data<double>();
  const int64_t* const expert = args.expert_BSk.data<int64_t>();
  parallel_for(rows, [&](int64_t row) {
    for (int64_t i = 0; i < choices; ++i) ++load[row * experts + expert[row * choices + i]];
  });
}

void launch(Cpu, const RouterLossForward& args) {
  for_wide(args.logits_BSE.dtype(), [&]<class W>(std::type_identity<W>) { loss_forward<W>(args); });
}

void launch(Cpu, const RouterLossBackward& args) {
  for_wide(args.logits_BSE.dtype(), [&]<class W>(std::type_identity<W>) { loss_backward<W>(args); });
}

}  // namespace ropewalk
