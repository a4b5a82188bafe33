// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps), over the last dim (Zhang & Sennrich 2019).
// x [.., C] of any floating dtype; weight [C] in the wide type; y in dtype `out`; statistics in the wide type. Keeps x and rstd.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var rms_norm(const Var& x, const Var& weight, double eps, DType out);

}  // namespace ropewalk
