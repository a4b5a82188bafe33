// y[.., :] = weight[id - first_row, :]; a zero row for an id outside [first_row, first_row + rows of weight), which another rank holds.
// ids [..] int64 (on the tape as a constant), weight [V_local, D], y [.., D] in dtype `out`.
// Backward adds the rows of dy into dweight, in a fixed order.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var embedding(const Var& ids, const Var& weight, int64_t first_row, DType out);

}  // namespace ropewalk
