#include <algorithm>

#include "kernels/swiglu/swiglu.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements a task

template <class T>
void forward_row(int64_t n, const T* gate, const T* up, T* y) {
  using W = Wide<T>;
  for (int64_t i = 0; i < n; ++i) y[i] = T(silu(W(gate[i])) * W(up[i]));
}

template <class T>
void backward_row(int64_t n, const T* dy, const T* gate, const T* up, T* dgate, T* dup) {
  using W = Wide<T>;
  for (int64_t i = 0; i < n; ++i) {
    const W g = W(gate[i]), s = sigmoid(g), d = W(dy[i]);
    dup[i] = T(d * g * s);
    dgate[i] = T(d * W(up[i]) * s * (W(1) + g * (W(1) - s)));
  }
}

template <class T>
void forward(const SwiGluForward& args) {
  const Rows<T> y = rows_of<T>(args.y), gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
  parallel_ranges(y.count, std::max<int64_t>(1, kGrain / y.width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) vectorized<forward_row<T>>(y.width, gate[i], up[i], y[i]);
  });
}

template <class T>
void backward(const SwiGluBackward& args) {
  const Rows<T> dgate = rows_of<T>(args.dgate), dup = rows_of<T>(args.dup);
  const Rows<T> dy = rows_of<T>(args.dy), gate = rows_of<T>(args.gate), up = rows_of<T>(args.up);
  parallel_ranges(dy.count, std::max<int64_t>(1, kGrain / dy.width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) vectorized<backward_row<T>>(dy.width, dy[i], gate[i], up[i], dgate[i], dup[i]);
  });
}

}  // namespace

void launch(Cpu, const SwiGluForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { forward<T>(args); });
}

void launch(Cpu, const SwiGluBackward& args) {
  if (args.dy.numel() == 0) return;
  dispatch_float(args.dy.dtype(), [&]<class T>(std::type_identity<T>) { backward<T>(args); });
}

}  // namespace ropewalk
