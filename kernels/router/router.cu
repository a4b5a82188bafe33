#include <cfloat>

#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/warps.cuh"
#include "kernels/router/router.h"

namespace ropewalk {
namespace {

using namespace cuda;

__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// Experts that cannot be chosen (any more) score -infinity; all others a finite number, also where a logit is not.
constexpr float kOut = -__builtin_huge_valf();
__device__ float finite(float x) { return x >= -FLT_MAX ? (x < FLT_MAX ? x : FLT_MAX) : -FLT_MAX; }

__device__ float two_largest(int64_t n, const float* x) {
  float first = x[0], second = n > 1 ? kOut : 0;
  for (int64_t i = 1; i < n; ++i) {
    const float lower = x[i] < first ? x[i] : first;
    second = lower > second ? lower : second;
    first = x[i] > first ? x[i] : first;
  }
  return first + second;
}

// The entry that a lane takes in the rows of warps.cuh, and alone reads and writes between two barriers of the warp.
__device__ void take_out(float* score, int i) {
  if (static_cast<int>(threadIdx.x) % kWarp == i % kWarp) score[i] = kOut;
}

// Takes the experts of all but the best groups out.
__device__ void limit_groups(int64_t experts, const RouterOptions& options, float* score, float* group_score) {
  const int64_t width = experts / options.groups;
  if (options.groups == options.top_groups) return;
  __syncwarp();
  for_each_of_lane(options.groups, [&](int g) { group_score[g] = finite(two_largest(width, score + g * width)); });
  for (int64_t i = 0; i < options.top_groups; ++i)  // these stay
    take_out(group_score, first_largest(options.groups, [&](int g) { return group_score[g]; }));
  __syncwarp();
  for_each_of_lane(experts, [&](int e) {
    if (group_score[e / width] != kOut) score[e] = kOut;
  });
}

__device__ void choose(int64_t experts, const float* logits, const float* bias, const RouterOptions& options, float* score, int* chosen) {
  for_each_of_lane(experts, [&](int e) { score[e] = finite(bias ? sigmoid(logits[e]) + bias[e] : logits[e]); });
  if (bias) limit_groups(experts, options, score, score + experts);
  for (int64_t slot = 0; slot < options.top_k; ++slot) {
    const int best = first_largest(experts, [&](int e) { return score[e]; });
    take_out(score, best);
    if (threadIdx.x % kWarp == 0) chosen[slot] = best;
  }
}

// Whether the weights are a softmax over the chosen logits: that is what renormalised probabilities are, too.
__device__ bool softmax_of_chosen(const RouterOptions& options) {
  return options.type == RouterType::kTopkSoftmax || (options.type == RouterType::kSoftmaxTopk && options.renorm);
}

// The weights of a token's slots before they are scaled.
struct Weigh {
  bool sigmoids;
  float top, sum;
  __device__ float operator()(float logit) const { return (sigmoids ? sigmoid(logit) : expf(logit - top)) / sum; }
};
template <class Chosen>
__device__ Weigh weigh(int64_t experts, const float* logits, const Chosen* chosen, const RouterOptions& options) {
  const auto over_chosen = [&](const auto& term) { return row_sum(options.top_k, [&](int slot) { return term(logits[chosen[slot]]); }); };
  const float top = logits[chosen[0]];
  switch (options.type) {
    case RouterType::kSigmoidTop1: return {.sigmoids = true, .top = 0, .sum = 1};
    case RouterType::kSigmoidBias:
      return {.sigmoids = true, .top = 0, .sum = over_chosen([](float logit) { return sigmoid(logit); }) + 1e-20f};
    default: break;
  }
  const auto term = [=](float logit) { return expf(logit - top); };
  const float sum = softmax_of_chosen(options) ? over_chosen(term) : row_sum(experts, [&](int e) { return term(logits[e]); });
  return {.sigmoids = false, .top = top, .sum = sum};
}

int64_t room_of(int64_t experts, const RouterOptions& options) { return experts + options.groups + options.top_k; }

__global__ void route_forward(int64_t tokens, int64_t experts, const float* logits_of_all, const float* bias, const int64_t* assigned,
                              RouterOptions options, int64_t room, float* weight, int64_t* expert) {
  SharedMemory shared;
  float* const score = shared.take<float>(room * (blockDim.x / kWarp)) + threadIdx.x / kWarp * room;
  int* const chosen = reinterpret_cast<int*>(score + experts + options.groups);
  const float scale = static_cast<float>(options.scale);
  for_each_row_of_warp(tokens, [&](int64_t t) {
    const float* const logits = logits_of_all + t * experts;
    __syncwarp();
    if (!assigned)
      choose(experts, logits, bias, options, score, chosen);
    else if (threadIdx.x % kWarp == 0)
      chosen[0] = static_cast<int>(assigned[t]);
    __syncwarp();
    const Weigh weigh_slot = weigh(experts, logits, chosen, options);
    for_each_of_lane(options.top_k, [&](int slot) {
      weight[t * options.top_k + slot] = scale * weigh_slot(logits[chosen[slot]]);
      expert[t * options.top_k + slot] = chosen[slot];
    });
  });
}

__global__ void route_backward(int64_t tokens, int64_t experts, const float* logits_of_all, const int64_t* expert,
                               const float* dweight_of_all, RouterOptions options, float* dlogits) {
  SharedMemory shared;
  float* const d = shared.take<float>(experts * (blockDim.x / kWarp)) + threadIdx.x / kWarp * experts;
  const float scale = static_cast<float>(options.scale);
  const bool over_all = options.type == RouterType::kSoftmaxTopk && !options.renorm;
  for_each_row_of_warp(tokens, [&](int64_t t) {
    const float *const logits = logits_of_all + t * experts, *const dweight = dweight_of_all + t * options.top_k;
    const int64_t* const chosen = expert + t * options.top_k;
    const Weigh weigh_slot = weigh(experts, logits, chosen, options);
    const float mean = options.type == RouterType::kSigmoidTop1
                           ? 0
                           : row_sum(options.top_k, [&](int slot) { return dweight[slot] * weigh_slot(logits[chosen[slot]]); });
    // Of a softmax over all experts, all have a share of the mean; else the chosen alone.
    for_each_of_lane(experts, [&](int e) { d[e] = over_all ? -scale * weigh_slot(logits[e]) * mean : 0; });
    __syncwarp();
    for_each_of_lane(options.top_k, [&](int slot) {
      const float logit = logits[chosen[slot]], own = over_all ? dweight[slot] : dweight[slot] - mean;
      d[chosen[slot]] += scale * own * weigh_slot(logit) * (weigh_slot.sigmoids ? 1 - sigmoid(logit) : 1);
    });
    __syncwarp();
    for_each_of_lane(experts, [&](int e) { dlogits[t * experts + e] = d[e]; });
  });
}

// ---- loads: blocks along y are rows, along x parts of their choices

__global__ void count_parts(int64_t choices, int64_t experts, const int64_t* expert, int* part) {
  SharedMemory shared;
  int* const count = shared.take<int>(experts);
  for (int64_t e = threadIdx.x; e < experts; e += blockDim.x) count[e] = 0;
  __syncthreads();
  for_each_item(choices, [&](int64_t i) { atomicAdd(&count[expert[blockIdx.y * choices + i]], 1); });
  __syncthreads();
  for (int64_t e = threadIdx.x; e < experts; e += blockDim.x)
    part[(static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * experts + e] = count[e];
}

__global__ void add_counts(int64_t rows, int64_t parts, int64_t experts, const int* part, double* load) {
  for_each_item(rows * experts, [&](int64_t i) {
    const int* const of_row = part + i / experts * parts * experts + i % experts;
    int64_t sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += of_row[p * experts];
    load[i] = static_cast<double>(sum);
  });
}

// ---- losses: blocks along y are rows, along x parts of their tokens

struct LossTerms {
  int64_t tokens, experts;  // of a row
  const float* logits;
  const double* load;
  double balance;  // balance E / T
  float z;         // z / T
  bool sigmoid;    // q = s / sum s, not softmax
};
LossTerms terms_of(const Tensor& logits_BSE, const Tensor& load_BE, const RouterLossOptions& options) {
  const double length = static_cast<double>(options.tokens);
  return {.tokens = logits_BSE.dim(1),
          .experts = logits_BSE.dim(2),
          .logits = logits_BSE.data<float>(),
          .load = load_BE.data<double>(),
          .balance = options.balance * static_cast<double>(logits_BSE.dim(2)) / length,
          .z = static_cast<float>(options.z / length),
          .sigmoid = options.type == RouterType::kSigmoidBias || options.type == RouterType::kSigmoidTop1};
}

// How strongly the balance loss pulls at each expert's share: balance E / T f_e. Ends with a barrier.
__device__ void set_pulls(const LossTerms& terms, float* pull) {
  const double* const load = terms.load + blockIdx.y * terms.experts;
  double sum = 0;
  for_each_of_lane(terms.experts, [&](int e) { sum += load[e]; });
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, lanes);
  for (int64_t e = threadIdx.x; e < terms.experts; e += blockDim.x)
    pull[e] = sum > 0 ? static_cast<float>(terms.balance * load[e] / sum) : 0;
  __syncthreads();
}

// A token's logits: their logsumexp, and q as share(logit) / sum.
struct Shares {
  bool sigmoids;
  float log_sum_exp, sum;
  __device__ float p(float logit) const { return expf(logit - log_sum_exp); }
  __device__ float q(float logit) const { return sigmoids ? sigmoid(logit) / sum : p(logit); }
};
__device__ Shares shares_of(const LossTerms& terms, const float* logits) {
  const float top = row_max(terms.experts, [&](int e) { return logits[e]; });
  const float log_sum_exp = top + logf(row_sum(terms.experts, [&](int e) { return expf(logits[e] - top); }));
  const float sum = terms.sigmoid ? row_sum(terms.experts, [&](int e) { return sigmoid(logits[e]); }) : 1;
  return {.sigmoids = terms.sigmoid, .log_sum_exp = log_sum_exp, .sum = sum};
}

__global__ void loss_parts(LossTerms terms, double* part) {
  SharedMemory shared;
  float* const pull = shared.take<float>(terms.experts);
  double* const of_thread = shared.take<double>(blockDim.x);
  set_pulls(terms, pull);
  double loss = 0;  // the same in all lanes of a warp: the first one's counts
  for_each_row_of_warp(terms.tokens, [&](int64_t t) {
    const float* const logits = terms.logits + (blockIdx.y * terms.tokens + t) * terms.experts;
    const Shares shares = shares_of(terms, logits);
    const float balance = row_sum(terms.experts, [&](int e) { return pull[e] * shares.q(logits[e]); });
    loss += balance + terms.z * shares.log_sum_exp * shares.log_sum_exp;
  });
  const double sum = block_total(threadIdx.x % kWarp == 0 ? loss : 0, of_thread);
  if (threadIdx.x == 0) part[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
}

// One block.
__global__ void add_losses(int64_t parts, const double* part, double* loss) {
  SharedMemory shared;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += blockDim.x) sum += part[i];
  sum = block_total(sum, shared.take<double>(blockDim.x));
  if (threadIdx.x == 0) *loss = sum;
}

__global__ void loss_backward(LossTerms terms, const double* dloss, float* dlogits) {
  SharedMemory shared;
  float* const pull = shared.take<float>(terms.experts);
  set_pulls(terms, pull);
  const float d = static_cast<float>(*dloss);
  for_each_row_of_warp(terms.tokens, [&](int64_t t) {
    const int64_t first = (blockIdx.y * terms.tokens + t) * terms.experts;
    const float* const logits = terms.logits + first;
    const Shares shares = shares_of(terms, logits);
    const float mean = row_sum(terms.experts, [&](int e) { return pull[e] * shares.q(logits[e]); });
    const float z = 2 * terms.z * shares.log_sum_exp;
    for_each_of_lane(terms.experts, [&](int e) {
      const float logit = logits[e], slope = terms.sigmoid ? 1 - sigmoid(logit) : 1;
      dlogits[first + e] = d * (shares.q(logit) * slope * (pull[e] - mean) + z * shares.p(logit));
    });
  });
}

Grid over_rows(Grid grid, int64_t rows) {
  grid.blocks.y = static_cast<unsigned>(rows);
  return grid;
}

}  // namespace

void launch(Cuda, const RouteForward& args) {
  const int64_t experts = args.logits.dim(-1), tokens = args.logits.numel() / experts, room = room_of(experts, args.options);
  run(route_forward, warps_over(tokens, room), tokens, experts, args.logits.data<float>(), args.bias ? args.bias.data<float>() : nullptr,
      args.assigned ? args.assigned.data<int64_t>() : nullptr, args.options, room, args.weight.data<float>(), args.expert.data<int64_t>());
}

void launch(Cuda, const RouteBackward& args) {
  const int64_t experts = args.logits.dim(-1), tokens = args.logits.numel() / experts;
  run(route_backward, warps_over(tokens, experts), tokens, experts, args.logits.data<float>(), args.expert.data<int64_t>(),
      args.dweight.data<float>(), args.options, args.dlogits.data<float>());
}

void launch(Cuda, const ExpertLoads& args) {
  constexpr int64_t kThreads = 256, kChoices = 16 * kThreads, kMost = 64;  // choices a block, blocks a row
  const int64_t rows = args.load_BE.dim(0), experts = args.load_BE.dim(1), choices = args.expert_BSk.numel() / std::max<int64_t>(1, rows);
  const int64_t parts = std::clamp<int64_t>(ceil_div(choices, kChoices), 1, kMost);
  const Tensor part = Tensor::empty({rows, parts, experts}, DType::kInt32, Cuda{});
  run(count_parts,
      {.blocks = dim3(static_cast<unsigned>(parts), static_cast<unsigned>(rows)),
       .threads = dim3(kThreads),
       .shared = shared_bytes<int>(static_cast<size_t>(experts))},
      choices, experts, args.expert_BSk.data<int64_t>(), part.data<int>());
  run(add_counts, grid_for(rows * experts), rows, parts, experts, part.data<int>(), args.load_BE.data<double>());
}

void launch(Cuda, const RouterLossForward& args) {
  const LossTerms terms = terms_of(args.logits_BSE, args.load_BE, args.options);
  const int64_t rows = args.logits_BSE.dim(0);
  Grid grid = over_rows(warps_over(terms.tokens, 0, terms.experts, kMostParts), rows);
  grid.shared += shared_bytes<double>(grid.threads.x);
  const Tensor parts = Tensor::empty({rows, static_cast<int64_t>(grid.blocks.x)}, DType::kFloat64, Cuda{});
  run(loss_parts, grid, terms, parts.data<double>());
  constexpr int kThreads = 256;
  run(add_losses, {.blocks = dim3(1), .threads = dim3(kThreads), .shared = shared_bytes<double>(kThreads)}, parts.numel(),
      parts.data<double>(), args.loss.data<double>());
}

void launch(Cuda, const RouterLossBackward& args) {
  const LossTerms terms = terms_of(args.logits_BSE, args.load_BE, args.options);
  const Grid grid = over_rows(warps_over(terms.tokens, 0, terms.experts), args.logits_BSE.dim(0));
  run(loss_backward, grid, terms, args.dloss.data<double>(), args.dlogits_BSE.data<float>());
}

}  // namespace ropewalk
