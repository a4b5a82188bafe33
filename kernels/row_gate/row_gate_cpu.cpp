#include <algorithm>

#include "kernels/row_gate/row_gate.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task

template <class T>
void scale_row(int64_t n, Wide<T> factor, const T* x, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(&y[i], factor * static_cast<Wide<T>>(x[i]));
}

template <class T>
Wide<T> dot(int64_t n, const T* x, const T* y) {
  Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<Wide<T>>(x[i]) * static_cast<Wide<T>>(y[i]);
  return sum;
}

template <class Body>
void for_rows(int64_t count, int64_t width, const Body& body) {
  parallel_ranges(count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

template <class T>
void forward(const RowGateForward& args) {
  using W = Wide<T>;
  const Rows<T> y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  const T* const gate = args.gate.data<T>();
  for_rows(y.count, y.width, [&](int64_t i) { vectorized<scale_row<T>>(y.width, sigmoid(static_cast<W>(gate[i])), x[i], y[i]); });
}

template <class T>
void backward(const RowGateBackward& args) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(args.dx), dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
  const T* const gate = args.gate.data<T>();
  T* const dgate = args.dgate.data<T>();
  for_rows(dx.count, dx.width, [&](int64_t i) {
    const W s = sigmoid(static_cast<W>(gate[i]));
    vectorized<scale_row<T>>(dx.width, s, dy[i], dx[i]);
    dgate[i] = T(s * (1 - s) * vectorized<dot<T>>(dx.width, dy[i], x[i]));
  });
}

}  // namespace

void launch(Cpu, const RowGateForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { forward<T>(args); });
}

void launch(Cpu, const RowGateBackward& args) {
  args.dgate.fill(0);  // also where a row has no elements
  if (args.dx.numel() == 0) return;
  dispatch_float(args.dx.dtype(), [&]<class T>(std::type_identity<T>) { backward<T>(args); });
}

}  // namespace ropewalk
