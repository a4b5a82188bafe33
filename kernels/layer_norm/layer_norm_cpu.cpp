#include <cmath>

#include "kernels/layer_norm/layer_norm.h"
#include "kernels/tensor/row_sums.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

// `omp simd` only lets the compiler keep one sum a lane.

template <class X>
Wide<X> sum_of(int64_t n, const X* x) {
  Wide<X> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += Wide<X>(x[i]);
  return sum;
}

// Around the mean, which keeps the digits that a difference of large sums would lose.
template <class X>
Wide<X> square_deviation(int64_t n, const X* x, Wide<X> mean) {
  using W = Wide<X>;
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += (W(x[i]) - mean) * (W(x[i]) - mean);
  return sum;
}

template <class X, class Y>
void normalize_row(int64_t n, const X* x, const Wide<X>* weight, const Wide<X>* bias, Wide<X> mean, Wide<X> rstd, Y* y) {
  using W = Wide<X>;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, (W(x[i]) - mean) * rstd * weight[i] + bias[i]);
}

template <class X, class Y>
void input_gradient(int64_t n, const Y* dy, const X* x, const Wide<X>* weight, Wide<X> mean, Wide<X> rstd, bool accumulate, X* dx) {
  using W = Wide<X>;
  W sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t i = 0; i < n; ++i) {
    const W g = W(dy[i]) * weight[i];
    sum += g;
    dot += g * (W(x[i]) - mean);
  }
  const W level = sum / static_cast<W>(n), along = dot * rstd * rstd / static_cast<W>(n);
  if (accumulate) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(dx + i, W(dx[i]) + rstd * (W(dy[i]) * weight[i] - level - (W(x[i]) - mean) * along));
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(dx + i, rstd * (W(dy[i]) * weight[i] - level - (W(x[i]) - mean) * along));
  }
}

// partial: n sums for dweight, then n for dbias.
template <class X, class Y>
void add_parameter_gradients(int64_t n, const Y* dy, const X* x, Wide<X> mean, Wide<X> rstd, Wide<X>* partial) {
  using W = Wide<X>;
  for (int64_t i = 0; i < n; ++i) {
    partial[i] += W(dy[i]) * (W(x[i]) - mean) * rstd;
    partial[n + i] += W(dy[i]);
  }
}

int64_t rows_a_task(int64_t width) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)); }

template <class X, class Y>
void forward(const LayerNormForward& args) {
  using W = Wide<X>;
  const auto x = rows_of<X>(args.x, "layer_norm: x");
  const auto y = rows_of<Y>(args.y);
  const W *weight = rows_of<W>(args.weight, "layer_norm: weight").data, *bias = rows_of<W>(args.bias, "layer_norm: bias").data;
  W *mean = args.mean.data<W>(), *rstd = args.rstd.data<W>();
  const W width = static_cast<W>(x.width), eps = static_cast<W>(args.eps);
  parallel_ranges(x.count, rows_a_task(x.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      mean[row] = vectorized<sum_of<X>>(x.width, x[row]) / width;
      rstd[row] = 1 / std::sqrt(vectorized<square_deviation<X>>(x.width, x[row], mean[row]) / width + eps);
      vectorized<normalize_row<X, Y>>(x.width, x[row], weight, bias, mean[row], rstd[row], y[row]);
    }
  });
}

template <class X, class Y>
void backward(const LayerNormBackward& args) {
  using W = Wide<X>;
  const auto x = rows_of<X>(args.x, "layer_norm: x");
  const auto dy = rows_of<Y>(args.dy, "layer_norm: dy");
  const W* const weight = rows_of<W>(args.weight, "layer_norm: weight").data;
  const W *mean = args.mean.data<W>(), *rstd = args.rstd.data<W>();
  X* const dx = args.dx ? args.dx.data<X>() : nullptr;
  const bool parameters = args.dweight || args.dbias;
  const Tensor sums = row_sums<W>(x.count, parameters ? 2 * x.width : 0, [&](int64_t begin, int64_t end, W* partial) {
    for (int64_t row = begin; row < end; ++row) {
      if (dx) vectorized<input_gradient<X, Y>>(x.width, dy[row], x[row], weight, mean[row], rstd[row], args.accumulate, dx + row * x.width);
      if (parameters) vectorized<add_parameter_gradients<X, Y>>(x.width, dy[row], x[row], mean[row], rstd[row], partial);
    }
  });
  if (args.dweight) args.dweight.add(sums.narrow(0, 0, x.width));
  if (args.dbias) args.dbias.add(sums.narrow(0, x.width, x.width));
}

}  // namespace

void launch(Cpu, const LayerNormForward& args) {
  dispatch_floats(args.x.dtype(), args.y.dtype(), [&]<class X, class Y>() { forward<X, Y>(args); });
}

void launch(Cpu, const LayerNormBackward& args) {
  dispatch_floats(args.x.dtype(), args.dy.dtype(), [&]<class X, class Y>() { backward<X, Y>(args); });
}

}  // namespace ropewalk
