// Sums over flat spans, in an order that does not depend on threads.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

// What an optimizer's update did to a span: sums of squares of the changes, and of the weights after it. In double.
struct UpdateSquares {
  double update = 0, weight = 0;
};

struct SumOfSquares {
  const Tensor& x;  // dense, any floating dtype
  double& sum;      // out
};
void launch(Cpu, const SumOfSquares& args);
inline Effort effort(const SumOfSquares& args) { return {.bytes = static_cast<double>(args.x.bytes())}; }

// Each of the targets becomes the sum of the spans, added in their order, in the wide type. A target may be one of the spans.
struct SumInto {
  const Tensors &spans, &targets;  // dense, of one size and floating dtype
};
void launch(Cpu, const SumInto& args);

}  // namespace ropewalk
