// y = silu(gate) * up (Shazeer 2020). gate, up [.., F] rows of dtype T (slices of one projection are fine); y dense. Keeps gate and up.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var swiglu(const Var& gate, const Var& up);

}  // namespace ropewalk
