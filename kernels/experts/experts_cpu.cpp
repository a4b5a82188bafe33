#include <algorithm>
#include <numeric>

#include "kernels/experts/products.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task
constexpr int64_t kColumns = 64;     // summed in registers

int64_t rows_a_task(int64_t width) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)); }

// One token's slots: rows of `width` elements, and a weight each.
template <class T>
struct Slots {
  Rows<T> rows;
  int64_t k;
  const int64_t* row;     // [k]
  const Wide<T>* weight;  // [k], or null: 1
};

template <class T, int64_t kWidth>
inline void gather_sum_columns(Slots<T> slots, int64_t column, int64_t n, T* y) {
  using W = Wide<T>;
  W sum[kWidth] = {};
  for (int64_t j = 0; j < slots.k; ++j) {
    const T* from = slots.rows[slots.row[j]] + column;
    const W weight = slots.weight ? slots.weight[j] : W(1);
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) sum[c] += weight * static_cast<W>(from[c]);
  }
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) store(&y[column + c], sum[c]);
}

template <class T>
void gather_sum(Slots<T> slots, T* y) {
  const int64_t width = slots.rows.width;
  int64_t column = 0;
  for (; column + kColumns <= width; column += kColumns) gather_sum_columns<T, kColumns>(slots, column, kColumns, y);
  gather_sum_columns<T, kColumns>(slots, column, width - column, y);
}

// drow = weight dy; returns <dy, row>.
template <class T>
Wide<T> combine_backward(int64_t n, Wide<T> weight, const T* dy, const T* row, T* drow) {
  using W = Wide<T>;
  W dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) {
    const W d = static_cast<W>(dy[i]);
    store(&drow[i], weight * d);
    dot += d * static_cast<W>(row[i]);
  }
  return dot;
}

template <class T>
void gather_sum_all(const GatherSum& args) {
  using W = Wide<T>;
  const Rows<T> y = rows_of<T>(args.y), rows = rows_of<T>(args.rows, "experts: rows");
  const int64_t k = args.plan.top_k;
  const int64_t* const row = args.plan.row.data<int64_t>();
  const W* const weight = args.weight ? args.weight.data<W>() : nullptr;
  parallel_ranges(args.plan.tokens.numel(), rows_a_task(k * y.width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      vectorized<gather_sum<T>>(Slots<T>{rows, k, row + t * k, weight ? weight + t * k : nullptr}, y[t]);
  });
}

template <class T>
void combine_backward_all(const CombineBackward& args) {
  using W = Wide<T>;
  const Rows<T> drows = rows_of<T>(args.drows), dy = rows_of<T>(args.dy, "experts: dy"), rows = rows_of<T>(args.rows, "experts: rows");
  const int64_t k = args.plan.top_k;
  const int64_t* const row = args.plan.row.data<int64_t>();
  const W* const weight = args.weight.data<W>();
  W* const dweight = args.dweight.data<W>();
  parallel_ranges(args.plan.tokens.numel() * k, rows_a_task(dy.width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      dweight[i] = vectorized<combine_backward<T>>(dy.width, weight[i], dy[i / k], rows[row[i]], drows[row[i]]);
  });
}

template <class T>
void scatter_tokens(const ScatterTokens& args) {
  const Rows<T> rows = rows_of<T>(args.rows), x = rows_of<T>(args.x, "experts: x");
  const int64_t* const token = args.plan.token.data<int64_t>();
  parallel_ranges(rows.count, rows_a_task(rows.width), [&](int64_t begin, int64_t end) {
    for (int64_t a = begin; a < end; ++a) std::copy_n(x[token[a]], x.width, rows[a]);
  });
}

}  // namespace

void launch(Cpu, const SortByExpert& args) {
  const int64_t experts = std::ssize(args.begin) - 1, n = args.expert.numel(), k = args.expert.dim(-1);
  const int64_t* const chosen = args.expert.data<int64_t>();
  const auto expert_of = [&](int64_t i) { return chosen[i] >= 0 && chosen[i] < experts ? chosen[i] : experts; };
  std::vector<int64_t> next(static_cast<size_t>(experts) + 2);
  for (int64_t i = 0; i < n; ++i) ++next[expert_of(i) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::copy(next.begin(), next.end() - 1, args.begin.begin());
  int64_t *const token = args.token.data<int64_t>(), *const row = args.row.data<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    row[i] = next[expert_of(i)]++;
    token[row[i]] = i / k;
  }
}

// One after the other: a product is parallel by itself.
void launch(Cpu, const ExpertLinearForward& args) {
  for_each_product(args, [](const MatMul& product) { launch(Cpu{}, product); });
}
void launch(Cpu, const ExpertLinearBackwardInput& args) {
  for_each_product(args, [](const MatMul& product) { launch(Cpu{}, product); });
}
void launch(Cpu, const ExpertLinearBackwardWeight& args) {
  for_each_product(args, [](const MatMul& product) { launch(Cpu{}, product); });
}

void launch(Cpu, const GatherSum& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { gather_sum_all<T>(args); });
}

void launch(Cpu, const ScatterTokens& args) {
  if (args.rows.numel() == 0) return;
  dispatch_float(args.rows.dtype(), [&]<class T>(std::type_identity<T>) { scatter_tokens<T>(args); });
}

void launch(Cpu, const CombineBackward& args) {
  if (args.dy.numel() == 0) return args.dweight.fill(0);  // rows without elements
  dispatch_float(args.dy.dtype(), [&]<class T>(std::type_identity<T>) { combine_backward_all<T>(args); });
}

}  // namespace ropewalk
