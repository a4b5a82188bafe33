#include <cmath>
#include <vector>

#include "kernels/gated_norm/gated_norm.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/row_sums.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

// The leaves work on one group of one row. What costs an exponential is kept in scratch of the group's width, in the first cache. Sums
// have loops of their own, over the wide type: beside a narrower operand g++ 12 keeps them in vectors of half the length.

template <class T>
void forward_group(int64_t n, Wide<T> eps, const T* y, int64_t y_stride, const T* z, int64_t z_stride, const Wide<T>* weight, Wide<T>* u,
                   Wide<T>* rstd, T* out) {
  using W = Wide<T>;
  prefetch(n, y + y_stride);
  prefetch(n, z + z_stride);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) u[i] = W(y[i]) * silu(W(z[i]));
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += u[i] * u[i];
  const W r = *rstd = 1 / std::sqrt(sum / static_cast<W>(n) + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(out + i, u[i] * r * weight[i]);
}

template <class T>
void backward_group(int64_t n, const T* d_out, int64_t d_stride, const T* y, int64_t y_stride, const T* z, int64_t z_stride,
                    const Wide<T>* weight, Wide<T> r, Wide<T>* gate, Wide<T>* d_times_u, T* dy, T* dz, Wide<T>* dweight) {
  using W = Wide<T>;
  prefetch(n, d_out + d_stride);
  prefetch(n, y + y_stride);
  prefetch(n, z + z_stride);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    gate[i] = sigmoid(W(z[i]));
    d_times_u[i] = W(d_out[i]) * W(y[i]) * W(z[i]) * gate[i];
  }
  W along = 0;
#pragma omp simd reduction(+ : along)
  for (int64_t i = 0; i < n; ++i) {
    dweight[i] += d_times_u[i] * r;
    along += d_times_u[i] * weight[i];
  }
  const W c = along * r * r / static_cast<W>(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const W y_i = W(y[i]), s = W(z[i]) * gate[i];
    const W du = r * (W(d_out[i]) * weight[i] - y_i * s * c);
    store(dy + i, du * s);
    store(dz + i, du * y_i * (gate[i] + s * (1 - gate[i])));
  }
}

template <class T>
void run(const GatedNormForward& args) {
  using W = Wide<T>;
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z), out = rows_of<T>(args.out);
  const auto rstd = rows_of<W>(args.rstd);
  const W* weight = rows_of<W>(args.weight, "gated_norm: weight").data;
  const int64_t groups = rstd.width, n = y.width / groups;
  parallel_ranges(rstd.count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, y.width)), [&](int64_t begin, int64_t end) {
    std::vector<W> u(static_cast<size_t>(n));
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0, c = 0; g < groups; ++g, c += n)
        vectorized<forward_group<T>>(n, static_cast<W>(args.eps), y[row] + c, y.stride, z[row] + c, z.stride, weight + c, u.data(),
                                     &rstd[row][g], out[row] + c);
  });
}

template <class T>
void run(const GatedNormBackward& args) {
  using W = Wide<T>;
  const auto d_out = rows_of<T>(args.d_out), y = rows_of<T>(args.y), z = rows_of<T>(args.z), dy = rows_of<T>(args.dy),
             dz = rows_of<T>(args.dz);
  const auto rstd = rows_of<W>(args.rstd);
  const W* weight = rows_of<W>(args.weight, "gated_norm: weight").data;
  const int64_t groups = rstd.width, n = y.width / groups;
  const Tensor dweight = row_sums<W>(rstd.count, y.width, [&](int64_t begin, int64_t end, W* partial) {
    std::vector<W> gate(static_cast<size_t>(n)), d_times_u(static_cast<size_t>(n));
    for (int64_t row = begin; row < end; ++row)
      for (int64_t g = 0, c = 0; g < groups; ++g, c += n)
        vectorized<backward_group<T>>(n, d_out[row] + c, d_out.stride, y[row] + c, y.stride, z[row] + c, z.stride, weight + c, rstd[row][g],
                                      gate.data(), d_times_u.data(), dy[row] + c, dz[row] + c, partial + c);
  });
  if (args.dweight) args.dweight.add(dweight);
}

template <class Args>
void dispatch(const Args& args) {
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace

void launch(Cpu, const GatedNormForward& args) { dispatch(args); }
void launch(Cpu, const GatedNormBackward& args) { dispatch(args); }

}  // namespace ropewalk
