#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/matmul/matmul.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

// A block of logits: this many scored tokens by this many rows of weight.
constexpr int64_t kTokens = 1024, kRows = 1024;
constexpr int64_t kTokensATask = 8;

// `omp simd` only lets the compiler keep one maximum or sum a lane.
template <class W>
W largest(int64_t n, const W* logits) {
  W best = -std::numeric_limits<W>::infinity();
#pragma omp simd reduction(max : best)
  for (int64_t v = 0; v < n; ++v) best = logits[v] > best ? logits[v] : best;
  return best;
}

template <class W>
W sum_exp(int64_t n, const W* logits, W offset) {
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t v = 0; v < n; ++v) sum += fast_exp(logits[v] - offset);
  return sum;
}

// logits -> exp(logits - log_sum_exp) * scale, in place
template <class W>
void scaled_softmax(int64_t n, W* logits, W log_sum_exp, W scale) {
  for (int64_t v = 0; v < n; ++v) logits[v] = fast_exp(logits[v] - log_sum_exp) * scale;
}

template <class W>
void scale_row(int64_t n, W* logits, W factor) {
  for (int64_t v = 0; v < n; ++v) logits[v] *= factor;
}

template <class To, class From>
void convert_row(int64_t n, const From* from, To* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = To(from[i]);
}

// sum over the logits seen so far of exp(logit), as exp(offset) * sum
template <class W>
struct OnlineSum {
  W offset = -std::numeric_limits<W>::infinity(), sum = 0;

  void add(int64_t n, const W* logits) {
    const W next = std::max(offset, vectorized<largest<W>>(n, logits));
    sum = sum * std::exp(offset - next) + vectorized<sum_exp<W>>(n, logits, next);
    offset = next;
  }
  W log() const { return offset + std::log(sum); }
};

std::vector<int64_t> scored_tokens(const Tensor& target) {
  const int64_t* targets = target.data<int64_t>();
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < target.numel(); ++i)
    if (targets[i] != kIgnored) tokens.push_back(i);
  return tokens;
}

// Calls body(tokens, x) for each block of scored tokens: where they stand, and their rows of x side by side.
template <class T, class Body>
void for_each_token_block(const Tensor& x, const Tensor& target, const Body& body) {
  const std::vector<int64_t> scored = scored_tokens(target);
  const auto from = rows_of<T>(x, "head_scores: x");
  for (size_t begin = 0; begin < scored.size(); begin += kTokens) {
    const auto tokens = std::span(scored).subspan(begin, std::min<size_t>(kTokens, scored.size() - begin));
    const Tensor block = Tensor::empty({static_cast<int64_t>(tokens.size()), from.width}, x.dtype());
    T* to = block.data<T>();
    parallel_ranges(block.dim(0), kTokensATask, [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; ++i) std::copy_n(from[tokens[i]], from.width, to + i * from.width);
    });
    body(tokens, block);
  }
}

// Calls body(first, weight, logits) for each block of rows of weight: the index of its first, the rows, and x * rows^T in the wide type.
template <class Body>
void for_each_row_block(const Tensor& x, const Tensor& weight, const Body& body) {
  for (int64_t begin = 0; begin < weight.dim(0); begin += kRows) {
    const Tensor rows = weight.narrow(0, begin, std::min(kRows, weight.dim(0) - begin));
    const Tensor logits = Tensor::empty({x.dim(0), rows.dim(0)}, wide(x.dtype()));
    launch(Cpu{}, MatMul{.c = logits, .a = x, .b = rows, .transpose_b = true});
    body(begin, rows, logits);
  }
}

template <class T>
void run(const HeadScoresForward& args) {
  using W = Wide<T>;
  args.log_sum_exp.fill(0);
  args.target_logit.fill(0);
  W *log_sum_exp = args.log_sum_exp.data<W>(), *target_logit = args.target_logit.data<W>();
  const int64_t* target = args.target.data<int64_t>();
  const W scale = static_cast<W>(args.logit_scale);
  for_each_token_block<T>(args.x, args.target, [&](std::span<const int64_t> tokens, const Tensor& x) {
    std::vector<OnlineSum<W>> sums(tokens.size());
    for_each_row_block(x, args.weight, [&](int64_t first, const Tensor&, const Tensor& logits) {
      const auto block = rows_of<W>(logits);
      parallel_ranges(block.count, kTokensATask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          if (scale != 1) vectorized<scale_row<W>>(block.width, block[i], scale);
          sums[i].add(block.width, block[i]);
          const int64_t row = target[tokens[i]] - args.first_row - first;
          if (row >= 0 && row < block.width) target_logit[tokens[i]] = block[i][row];
        }
      });
    });
    for (size_t i = 0; i < tokens.size(); ++i) log_sum_exp[tokens[i]] = sums[i].log();
  });
}

// Turns a block of x . weight into its gradients, in the dtype of x. `first` is the block's first row of weight.
template <class T>
Tensor logit_gradients(const HeadScoresBackward& args, std::span<const int64_t> tokens, int64_t first, const Tensor& logits) {
  using W = Wide<T>;
  const W *log_sum_exp = args.log_sum_exp.data<W>(), *d_log_sum_exp = args.d_log_sum_exp.data<W>();
  const W* d_target_logit = args.d_target_logit.data<W>();
  const int64_t* target = args.target.data<int64_t>();
  const W scale = static_cast<W>(args.logit_scale);
  const auto block = rows_of<W>(logits);
  const Tensor result = std::is_same_v<T, W> ? logits : Tensor::empty(logits.shape(), dtype_of<T>());
  T* rounded = result.data<T>();
  parallel_ranges(block.count, kTokensATask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t token = tokens[i], row = target[token] - args.first_row - first;
      if (scale != 1) vectorized<scale_row<W>>(block.width, block[i], scale);
      vectorized<scaled_softmax<W>>(block.width, block[i], log_sum_exp[token], scale * d_log_sum_exp[token]);
      if (row >= 0 && row < block.width) block[i][row] += scale * d_target_logit[token];
      if constexpr (!std::is_same_v<T, W>) vectorized<convert_row<T, W>>(block.width, block[i], rounded + i * block.width);
    }
  });
  return result;
}

template <class T>
void run(const HeadScoresBackward& args) {
  using W = Wide<T>;
  if (args.dx) args.dx.fill(0);  // what ignored tokens keep
  for_each_token_block<T>(args.x, args.target, [&](std::span<const int64_t> tokens, const Tensor& x) {
    const Tensor dx_block = Tensor::zeros(x.shape(), dtype_of<W>());
    for_each_row_block(x, args.weight, [&](int64_t first, const Tensor& weight, const Tensor& logits) {
      const Tensor d_logits = logit_gradients<T>(args, tokens, first, logits);
      if (args.dx) launch(Cpu{}, MatMul{.c = dx_block, .a = d_logits, .b = weight, .accumulate = true});
      if (!args.dweight) return;
      const Tensor dweight = args.dweight.narrow(0, first, weight.dim(0));
      launch(Cpu{}, MatMul{.c = dweight, .a = d_logits, .transpose_a = true, .b = x, .accumulate = true});
    });
    if (!args.dx) return;
    const auto from = rows_of<W>(dx_block);
    const auto to = rows_of<T>(args.dx);
    parallel_ranges(from.count, kTokensATask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) vectorized<convert_row<T, W>>(from.width, from[i], to[tokens[i]]);
    });
  });
}

template <class T>
void run(const CrossEntropyForward& args) {
  using W = Wide<T>;
  const W *log_sum_exp = args.log_sum_exp.data<W>(), *target_logit = args.target_logit.data<W>();
  double sum = 0;
  for (const int64_t token : scored_tokens(args.target)) sum += double{log_sum_exp[token]} - double{target_logit[token]};
  *args.loss.data<double>() = sum;
}

template <class T>
void run(const CrossEntropyBackward& args) {
  using W = Wide<T>;
  const W d_loss = static_cast<W>(*args.d_loss.data<double>());
  args.d_log_sum_exp.fill(0);
  args.d_target_logit.fill(0);
  W *d_log_sum_exp = args.d_log_sum_exp.data<W>(), *d_target_logit = args.d_target_logit.data<W>();
  for (const int64_t token : scored_tokens(args.target)) {
    d_log_sum_exp[token] = d_loss;
    d_target_logit[token] = -d_loss;
  }
}

// Calls run<T>(args) for the element type of x, an argument.
template <class Args>
void dispatch(const Tensor& x, const Args& args) {
  dispatch_float(x.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace

void launch(Cpu, const HeadScoresForward& args) { dispatch(args.x, args); }
void launch(Cpu, const HeadScoresBackward& args) { dispatch(args.x, args); }
void launch(Cpu, const CrossEntropyForward& args) { dispatch(args.log_sum_exp, args); }
void launch(Cpu, const CrossEntropyBackward& args) { dispatch(args.d_log_sum_exp, args); }

}  // namespace ropewalk
