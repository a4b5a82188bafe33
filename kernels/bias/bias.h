// y = x + bias over the last dim: x [.., N] rows (a slice of a projection is fine), bias [N], both of dtype T; y dense.
// Backward hands dy on; dbias += sum over rows of dy, in the wide type. Keeps nothing.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var add_bias(const Var& x, const Var& bias);

struct AddBias {
  const Tensor &y, &x, &bias;
};
struct BiasGradient {
  const Tensor &dbias, &dy;
};
void launch(Cpu, const AddBias& args);
void launch(Cpu, const BiasGradient& args);
void launch(Cuda, const AddBias& args);
void launch(Cuda, const BiasGradient& args);

}  // namespace ropewalk
