// What a sub-layer needs to know of whole sequences, of which each rank of ContextParallel::slices holds a part. Constants: no gradient
// flows through. Kept for the replay of a recomputed segment.
#pragma once

#include "parallel/context.h"

namespace ropewalk {

// The sum over the ranks of something counted by row [B, ..].
Tensor sum_over_sequence(const Tensor& counts, const Context& ctx);
// The values of all tokens of the rows, rank by rank: [B, S, C] -> [B, ranks S, C]. Not kept: for use inside Context::receive.
Tensor gather_sequence(const Tensor& x_BSC, const Context& ctx);
// How many tokens a whole row has.
int64_t sequence_length(const Context& ctx);

}  // namespace ropewalk
