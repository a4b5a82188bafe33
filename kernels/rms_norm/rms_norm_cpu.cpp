#include <cmath>

#include "kernels/rms_norm/rms_norm.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/row_sums.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

template <class X>
Wide<X> square_sum(int64_t n, const X* x) {
  using W = Wide<X>;
  W sum = 0;
#pragma omp simd reduction(+ : sum)  // only lets the compiler keep one sum a lane
  for (int64_t i = 0; i < n; ++i) sum += W(x[i]) * W(x[i]);
  return sum;
}

template <class X, class Y>
void scale_row(int64_t n, const X* x, const Wide<X>* weight, Wide<X> rstd, Y* y) {
  using W = Wide<X>;
  for_lines<X>(
      n,
      [&](int64_t i) {
        prefetch_line(x + n + i);
        prefetch_line(y + n + i);
      },
      [&](int64_t i) { store(y + i, W(x[i]) * rstd * weight[i]); });
}

template <class X, class Y>
void input_gradient(int64_t n, const Y* dy, const X* x, const Wide<X>* weight, Wide<X> rstd, bool accumulate, X* dx) {
  using W = Wide<X>;
  W dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += W(dy[i]) * weight[i] * W(x[i]);
  const W along = dot * rstd * rstd / static_cast<W>(n);
  const auto fetch = [&](int64_t i) {
    prefetch_line(dy + n + i);
    prefetch_line(x + n + i);
    prefetch_line(dx + n + i);
  };
  if (accumulate)
    for_lines<X>(n, fetch, [&](int64_t i) { store(dx + i, W(dx[i]) + rstd * (W(dy[i]) * weight[i] - W(x[i]) * along)); });
  else
    for_lines<X>(n, fetch, [&](int64_t i) { store(dx + i, rstd * (W(dy[i]) * weight[i] - W(x[i]) * along)); });
}

template <class X, class Y>
void add_weight_gradient(int64_t n, const Y* dy, const X* x, Wide<X> rstd, Wide<X>* dweight) {
  using W = Wide<X>;
  for (int64_t i = 0; i < n; ++i) dweight[i] += W(dy[i]) * W(x[i]) * rstd;
}

// A row is `heads` neighbouring stretches of the weight's width, each normalised alone.
template <class X, class Y>
void forward(const RmsNormForward& args) {
  using W = Wide<X>;
  const auto x = rows_of<X>(args.x, "rms_norm: x");
  const auto y = rows_of<Y>(args.y, "rms_norm: y");
  const auto rstd = rows_of<W>(args.rstd);
  const W* weight = rows_of<W>(args.weight, "rms_norm: weight").data;
  const int64_t n = args.weight.dim(0);
  const W width = static_cast<W>(n), eps = static_cast<W>(args.eps);
  parallel_ranges(x.count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, x.width)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t head = 0, c = 0; head < rstd.width; ++head, c += n) {
        rstd[row][head] = 1 / std::sqrt(vectorized<square_sum<X>>(n, x[row] + c) / width + eps);
        vectorized<scale_row<X, Y>>(n, x[row] + c, weight, rstd[row][head], y[row] + c);
      }
  });
}

template <class X, class Y>
void backward(const RmsNormBackward& args) {
  using W = Wide<X>;
  const auto x = rows_of<X>(args.x, "rms_norm: x");
  const auto dy = rows_of<Y>(args.dy, "rms_norm: dy");
  const auto rstd = rows_of<W>(args.rstd);
  const W* weight = rows_of<W>(args.weight, "rms_norm: weight").data;
  const int64_t n = args.weight.dim(0);
  X* dx = args.dx ? args.dx.data<X>() : nullptr;
  const Tensor dweight = row_sums<W>(x.count, args.dweight ? n : 0, [&](int64_t begin, int64_t end, W* partial) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t head = 0, c = 0; head < rstd.width; ++head, c += n) {
        const W r = rstd[row][head];
        if (dx) vectorized<input_gradient<X, Y>>(n, dy[row] + c, x[row] + c, weight, r, args.accumulate, dx + row * x.width + c);
        if (args.dweight) vectorized<add_weight_gradient<X, Y>>(n, dy[row] + c, x[row] + c, r, partial);
      }
  });
  if (args.dweight) args.dweight.add(dweight);
}

}  // namespace

void launch(Cpu, const RmsNormForward& args) {
  dispatch_floats(args.x.dtype(), args.y.dtype(), [&]<class X, class Y>() { forward<X, Y>(args); });
}

void launch(Cpu, const RmsNormBackward& args) {
  dispatch_floats(args.x.dtype(), args.dy.dtype(), [&]<class X, class Y>() { backward<X, Y>(args); });
}

}  // namespace ropewalk
