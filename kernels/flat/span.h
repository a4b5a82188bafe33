// What the optimizers share: parameters as flat spans.
#pragma once

#include "kernels/tensor/tensor.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {

constexpr int64_t kSpanGrain = 1 << 15;  // elements a task
constexpr int64_t kSpanBlock = 1 << 10;  // elements updated before their working copy is made: master is still in L1

// The elements of a dense 1-d tensor of n; `what` names it in the error.
template <class T>
T* span_of(const Tensor& x, int64_t n, const char* what) {
  expect(x.rank() == 1 && x.numel() == n && x.contiguous() && x.dtype() == dtype_of<T>(), "{}: expected a dense {} [{}], given {} {}", what,
         dtype_of<T>(), n, x.dtype(), x.shape());
  return x.data<T>();
}

template <class W, class T>
void round_span(int64_t n, const W* from, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = T(static_cast<Wide<T>>(from[i]));
}

}  // namespace ropewalk
