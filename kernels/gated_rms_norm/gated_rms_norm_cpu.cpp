#include <cmath>

#include "kernels/gated_rms_norm/gated_rms_norm.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 13;   // elements a task
constexpr int64_t kMaxPartials = 64;  // partial sums of dweight: their number follows from the shape alone
constexpr int64_t kMinRows = 8;       // rows behind one partial

// The leaves work on the channels of one group in one row. `omp simd` only lets the compiler keep one sum a lane.

template <class T>
Wide<T> square_sum(int64_t n, const T* y, const T* z) {
  using W = Wide<T>;
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const W u = W(y[i]) * silu(W(z[i]));
    sum += u * u;
  }
  return sum;
}

template <class T>
void square_sum_backward(int64_t n, Wide<T> d_square_sum, const T* y, const T* z, T* dy, T* dz) {
  using W = Wide<T>;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const W y_i = W(y[i]), z_i = W(z[i]), gate = sigmoid(z_i);
    const W du = 2 * d_square_sum * y_i * z_i * gate;
    store(dy + i, du * z_i * gate);
    store(dz + i, du * y_i * gate * (1 + z_i * (1 - gate)));
  }
}

template <class T>
Wide<T> plain_square_sum(int64_t n, const T* y) {
  Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += Wide<T>(y[i]) * Wide<T>(y[i]);
  return sum;
}

template <class T>
void plain_square_sum_backward(int64_t n, Wide<T> d_square_sum, const T* y, T* dy) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(dy + i, 2 * d_square_sum * Wide<T>(y[i]));
}

template <class T>
void normalize(int64_t n, const T* y, const T* z, const Wide<T>* weight, Wide<T> r, T* out) {
  using W = Wide<T>;
  for (int64_t i = 0; i < n; ++i) out[i] = T(W(y[i]) * silu(W(z[i])) * weight[i] * r);
}

// Returns the sum of d_out weight u.
template <class T>
Wide<T> normalize_backward(int64_t n, const T* d_out, const T* y, const T* z, const Wide<T>* weight, Wide<T> r, T* dy, T* dz,
                           Wide<T>* dweight) {
  using W = Wide<T>;
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const W y_i = W(y[i]), z_i = W(z[i]), d_i = W(d_out[i]), gate = sigmoid(z_i), u = y_i * z_i * gate;
    const W du = d_i * weight[i] * r;
    store(dy + i, du * z_i * gate);
    store(dz + i, du * y_i * gate * (1 + z_i * (1 - gate)));
    dweight[i] += d_i * u * r;
    sum += d_i * weight[i] * u;
  }
  return sum;
}

// 1 / sqrt(square_sum / group_width + eps)
template <class W, class Args>
W reciprocal_rms(W square_sum, const Args& args) {
  return 1 / std::sqrt(square_sum / static_cast<W>(args.group_width) + static_cast<W>(args.eps));
}

int64_t rows_a_task(int64_t width) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)); }

template <class T>
void run(const GatedSquareSumForward& args) {
  const auto sum = rows_of<Wide<T>>(args.square_sum);
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z);
  const int64_t n = y.width / sum.width;
  parallel_ranges(sum.count, rows_a_task(y.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0; g < sum.width; ++g) sum[row][g] = vectorized<square_sum<T>>(n, y[row] + g * n, z[row] + g * n);
  });
}

template <class T>
void run(const GatedSquareSumBackward& args) {
  const auto d_sum = rows_of<Wide<T>>(args.d_square_sum);
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z), dy = rows_of<T>(args.dy), dz = rows_of<T>(args.dz);
  const int64_t n = y.width / d_sum.width;
  parallel_ranges(d_sum.count, rows_a_task(y.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < y.width; c += n)
        vectorized<square_sum_backward<T>>(n, d_sum[row][c / n], y[row] + c, z[row] + c, dy[row] + c, dz[row] + c);
  });
}

template <class T>
void run(const SquareSumForward& args) {
  const auto sum = rows_of<Wide<T>>(args.square_sum);
  const auto y = rows_of<T>(args.y);
  const int64_t n = y.width / sum.width;
  parallel_ranges(sum.count, rows_a_task(y.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0; g < sum.width; ++g) sum[row][g] = vectorized<plain_square_sum<T>>(n, y[row] + g * n);
  });
}

template <class T>
void run(const SquareSumBackward& args) {
  const auto d_sum = rows_of<Wide<T>>(args.d_square_sum);
  const auto y = rows_of<T>(args.y), dy = rows_of<T>(args.dy);
  const int64_t n = y.width / d_sum.width;
  parallel_ranges(d_sum.count, rows_a_task(y.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < y.width; c += n) vectorized<plain_square_sum_backward<T>>(n, d_sum[row][c / n], y[row] + c, dy[row] + c);
  });
}

template <class T>
void run(const GatedRmsNormForward& args) {
  const auto sum = rows_of<Wide<T>>(args.square_sum);
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z), out = rows_of<T>(args.out);
  const Wide<T>* weight = rows_of<Wide<T>>(args.weight, "gated_rms_norm: weight").data;
  const int64_t n = y.width / sum.width;
  parallel_ranges(sum.count, rows_a_task(y.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = 0; c < y.width; c += n)
        vectorized<normalize<T>>(n, y[row] + c, z[row] + c, weight + c, reciprocal_rms(sum[row][c / n], args), out[row] + c);
  });
}

template <class T>
void run(const GatedRmsNormBackward& args) {
  using W = Wide<T>;
  const auto sum = rows_of<W>(args.square_sum), d_sum = rows_of<W>(args.d_square_sum);
  const auto d_out = rows_of<T>(args.d_out), y = rows_of<T>(args.y), z = rows_of<T>(args.z), dy = rows_of<T>(args.dy),
             dz = rows_of<T>(args.dz);
  const W* weight = rows_of<W>(args.weight, "gated_rms_norm: weight").data;
  const int64_t n = y.width / sum.width;
  const int64_t rows = std::max(kMinRows, (sum.count + kMaxPartials - 1) / kMaxPartials);
  const Tensor partials = Tensor::zeros({(sum.count + rows - 1) / rows, y.width}, dtype_of<W>());
  W* dweight = partials.data<W>();
  parallel_ranges(sum.count, rows, [&](int64_t begin, int64_t end) {
    W* partial = dweight + begin / rows * y.width;
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0, c = 0; g < sum.width; ++g, c += n) {
        const W r = reciprocal_rms(sum[row][g], args);
        const W along = vectorized<normalize_backward<T>>(n, d_out[row] + c, y[row] + c, z[row] + c, weight + c, r, dy[row] + c,
                                                          dz[row] + c, partial + c);
        d_sum[row][g] = -along * r * r * r / (2 * static_cast<W>(args.group_width));
      }
  });
  if (!args.dweight) return;
  for (int64_t i = 0; i < partials.dim(0); ++i) args.dweight.add(partials.select(0, i));
}

template <class Args>
void dispatch(const Args& args) {
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace

void launch(Cpu, const GatedSquareSumForward& args) { dispatch(args); }
void launch(Cpu, const GatedSquareSumBackward& args) { dispatch(args); }
void launch(Cpu, const SquareSumForward& args) { dispatch(args); }
void launch(Cpu, const SquareSumBackward& args) { dispatch(args); }
void launch(Cpu, const GatedRmsNormForward& args) { dispatch(args); }
void launch(Cpu, const GatedRmsNormBackward& args) { dispatch(args); }

}  // namespace ropewalk
