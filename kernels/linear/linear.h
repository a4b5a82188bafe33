// y = x * weight^T over the last dim: x [.., K], weight [N, K] -> y [.., N], in the dtype of x (which is weight's).
// Backward: dx = dy * weight; dweight += dy^T * x, in fp32 (fp64 for fp64), deferrable. Keeps x.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var linear(const Var& x, const Var& weight);

}  // namespace ropewalk
