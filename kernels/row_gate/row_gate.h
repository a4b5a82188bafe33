// y = sigmoid(gate) * x, one gate a row: x [.., D] rows of dtype T, gate [.., 1] dtype T -> y [.., D]. Keeps both.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var row_gate(const Var& x, const Var& gate);

struct RowGateForward {
  const Tensor& y;
  const Tensor &x, &gate;  // gate dense
};
struct RowGateBackward {
  const Tensor &dx, &dgate;
  const Tensor &dy, &x, &gate;
};
void launch(Cpu, const RowGateForward& args);
void launch(Cpu, const RowGateBackward& args);
void launch(Cuda, const RowGateForward& args);
void launch(Cuda, const RowGateBackward& args);

}  // namespace ropewalk
