#include <algorithm>
#include <array>

#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/vectorized.h"
#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {
namespace {

constexpr int64_t kBlock = 1024;     // elements summed at a time, in a buffer that stays in L1
constexpr int64_t kGrain = 1 << 15;  // elements a task

template <class W, class T>
void add_scaled(int64_t n, W weight, const T* x, W* sum) {
  for (int64_t i = 0; i < n; ++i) sum[i] += weight * static_cast<W>(x[i]);
}

template <class W, class T>
void round_to(int64_t n, const W* sum, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = T(sum[i]);
}

// One weights[i] * x_i; each x_i has a dtype and a row stride of its own.
template <class W>
struct Term {
  Tensor x;
  const void* data;
  int64_t stride;
  W weight;
  void (*add)(const Term& term, int64_t row, int64_t column, int64_t n, W* sum);
  int64_t next;  // elements from a block to the one that is added after it
};

template <class W>
Term<W> term_of(const Tensor& x, double weight, bool one_row, int64_t width) {
  const int64_t stride = one_row ? 0 : row_stride(x, "weighted_sum: x");
  return dispatch_float(x.dtype(), [&]<class T>(std::type_identity<T>) {
    const auto add = [](const Term<W>& term, int64_t row, int64_t column, int64_t n, W* sum) {
      const T* const block = static_cast<const T*>(term.data) + row * term.stride + column;
      prefetch(n, block + term.next);
      vectorized<add_scaled<W, T>>(n, term.weight, block, sum);
    };
    return Term<W>{x, x.data<T>(), stride, static_cast<W>(weight), add, width <= kBlock ? stride : kBlock};
  });
}

template <class T>
void weighted_sum(const WeightedSum& args) {
  using W = Wide<T>;
  const bool one_row = std::all_of(args.x.begin(), args.x.end(), [](const Tensor& x) { return x.contiguous(); });
  const int64_t width = one_row ? args.y.numel() : args.y.dim(-1);
  const int64_t blocks_a_row = (width + kBlock - 1) / kBlock, rows = args.y.numel() / width;
  std::vector<Term<W>> terms;
  for (size_t i = 0; i < args.x.size(); ++i)
    terms.push_back(term_of<W>(one_row || is_rows(args.x[i]) ? args.x[i] : args.x[i].contiguous_copy(), args.weights[i], one_row, width));

  T* y = args.y.data<T>();
  parallel_ranges(rows * blocks_a_row, std::max<int64_t>(1, kGrain / std::min(width, kBlock)), [&](int64_t begin, int64_t end) {
    std::array<W, kBlock> sum;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block / blocks_a_row, column = block % blocks_a_row * kBlock, n = std::min(kBlock, width - column);
      T* const to = y + row * width + column;
      prefetch(n, to + n);
      std::fill_n(sum.data(), n, W(0));
      for (const Term<W>& term : terms) term.add(term, row, column, n, sum.data());
      vectorized<round_to<W, T>>(n, sum.data(), to);
    }
  });
}

}  // namespace

void launch(Cpu, const WeightedSum& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { weighted_sum<T>(args); });
}

}  // namespace ropewalk
