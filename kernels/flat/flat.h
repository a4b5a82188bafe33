// Flat spans, and sums over them in an order that does not depend on threads.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

// What an optimizer's update did: sums of squares of the changes, and of the weights after them.
struct UpdateSquares {
  double update = 0, weight = 0;
};

// The elements of a dense 1-d tensor of n; `what` names it in the error.
void check_span(const Tensor& x, DType dtype, int64_t n, const char* what);
template <class T>
T* span_of(const Tensor& x, int64_t n, const char* what) {
  check_span(x, dtype_of<T>(), n, what);
  return x.data<T>();
}

// Sums stay where the spans are, so that a GPU is asked for them once a step, not once a span.
struct SumOfSquares {
  const Tensor& x;    // dense, any floating dtype
  const Tensor& sum;  // [1] in double, added to
};
void check(const SumOfSquares& args);
void launch(Cpu, const SumOfSquares& args);
void launch(Cuda, const SumOfSquares& args);
inline Effort effort(const SumOfSquares& args) { return {.bytes = static_cast<double>(args.x.bytes())}; }

// Each of the targets becomes the sum of the spans, added in their order, in the wide type. A target may be one of the spans.
struct SumInto {
  const Tensors &spans, &targets;  // dense, of one size and floating dtype
};
void check(const SumInto& args);
void launch(Cpu, const SumInto& args);
void launch(Cuda, const SumInto& args);

}  // namespace ropewalk
