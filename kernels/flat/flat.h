// Sums over flat spans, in an order that does not depend on threads.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

// In double.
struct SumOfSquares {
  const Tensor& x;  // dense, any floating dtype
  double& sum;      // out
};
void launch(Cpu, const SumOfSquares& args);

// Each of the spans becomes the sum of all, added in their order, in the wide type.
struct SumIntoAll {
  const Tensors& spans;  // dense, of one size and floating dtype
};
void launch(Cpu, const SumIntoAll& args);

}  // namespace ropewalk
