// How a scan's state goes through the pieces of each row, whatever rank holds them: a piece turns the state that enters it into
// decay * state + left, and a document that opens in it makes decay zero. Each rank tells all others the decay and what is left, of each of
// its pieces, and folds for itself: bytes independent of the sequence length.
//
// Tensors of all pieces are as Group::all_gather leaves them, rank by rank: decay [ranks E, H], states [ranks E, H, P, N].
#pragma once

#include "parallel/context_parallel/deal.h"

namespace ropewalk {

// A piece of this rank's, by its runs.
struct Piece {
  int64_t first = -1, last = -1;
  bool enters = false;  // the first run continues a document

  bool passes_through() const { return enters && first == last; }  // what enters reaches the end
};
std::vector<Piece> pieces_of(const Runs& runs, const Deal& deal);

// The states that enter this rank's pieces [E, H, P, N].
Tensor fold_pieces(const Tensor& decay, const Tensor& left, const Deal& deal);

// Its transpose: from the gradients of the states that enter the pieces, counting each piece alone, to those of the states that leave this
// rank's [E, H, P, N].
Tensor fold_pieces_back(const Tensor& decay, const Tensor& d_entering, const Deal& deal);

// Values behind each piece [E, ..] as values behind each run [runs, ..]: those of a piece behind its last run, zeros elsewhere.
Tensor behind_last_runs(const Tensor& of_pieces, const std::vector<Piece>& pieces, int64_t runs);

}  // namespace ropewalk
