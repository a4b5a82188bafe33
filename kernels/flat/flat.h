// Sums over flat spans, in double, in an order that does not depend on threads.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct SumOfSquares {
  const Tensor& x;  // dense, any floating dtype
  double& sum;      // out
};
void launch(Cpu, const SumOfSquares& args);

}  // namespace ropewalk
