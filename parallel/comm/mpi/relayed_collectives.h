// What each rank lays for the others and takes from them, in each collective that goes through a relay.
#pragma once

#include "parallel/comm/mpi/piece.h"
#include "parallel/comm/mpi/relay.h"

namespace ropewalk {

using Pieces = std::vector<Piece>;  // of a buffer, by rank

// `in` becomes piece `own` of every rank's buffer, and may be it.
RelayedOperation::Plan relayed_all_gather(const Piece& in, const Pieces& pieces, int own);
// Sums are added in the order of ranks, in the wide type, on the rank that owns the piece. `out` may be piece `own`.
RelayedOperation::Plan relayed_reduce_scatter(const Pieces& pieces, const Piece& out, DType dtype, int own);
RelayedOperation::Plan relayed_all_reduce(const Pieces& in, const Pieces& out, DType dtype, int own);  // `in` may be `out`

}  // namespace ropewalk
