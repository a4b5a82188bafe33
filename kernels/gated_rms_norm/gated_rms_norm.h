// Mamba-2's gated norm (gate first): u = y * silu(z), out = u * weight / sqrt(mean over a group of u^2 + eps).
//
// A group may be wider than what this rank holds, so the op comes in two halves and the caller sums the middle over the ranks that
// share a group:
//   s   = gated_square_sum(y, z, groups)                         [.., groups], wide: sum of u^2 over each local group's channels
//   out = gated_rms_norm(y, z, weight, s, group_width, eps)      group_width: channels of a whole group, on all its ranks
// y, z [.., I] rows (z may be a slice of a fused projection), dtype T; weight [I] wide; out dtype T.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var gated_square_sum(const Var& y, const Var& z, int64_t groups);
Var gated_rms_norm(const Var& y, const Var& z, const Var& weight, const Var& square_sum, int64_t group_width, double eps);

}  // namespace ropewalk
