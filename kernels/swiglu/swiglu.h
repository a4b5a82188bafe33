// y = silu(gate) * up (Shazeer 2020). gate, up [.., F] rows of dtype T (slices of one projection are fine); y dense. Keeps gate and up.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var swiglu(const Var& gate, const Var& up);

struct SwiGluForward {
  const Tensor& y;
  const Tensor& gate;
  const Tensor& up;
};
struct SwiGluBackward {
  const Tensor& dgate;
  const Tensor& dup;
  const Tensor& dy;
  const Tensor& gate;
  const Tensor& up;
};
void launch(Cpu, const SwiGluForward& args);
void launch(Cpu, const SwiGluBackward& args);

}  // namespace ropewalk
