#include "parallel/context_parallel/piece_fold.h"

#include "kernels/affine_scan/affine_scan.h"

namespace ropewalk {
namespace {

// Values of all pieces, gathered by rank, in the order of the rows' tokens.
Tensor in_order(const Tensor& by_rank, const Deal& deal) {
  const Tensor ordered = empty_like(by_rank);
  for (int64_t rank = 0; rank < deal.ranks; ++rank)
    for (int64_t e = 0; e < deal.entering(); ++e)
      ordered.select(0, deal.place(rank, e)).copy_from(by_rank.select(0, rank * deal.entering() + e));
  return ordered;
}

Tensor of_this_rank(const Tensor& ordered, const Deal& deal) {
  const Tensor mine = Tensor::empty(ordered.shape().with(0, deal.entering()), ordered.dtype(), ordered.device());
  for (int64_t e = 0; e < deal.entering(); ++e) mine.select(0, e).copy_from(ordered.select(0, deal.place(deal.rank, e)));
  return mine;
}

// To affine_scan a piece is a chunk and a row a run.
std::vector<int64_t> first_piece_of_rows(const Deal& deal) {
  std::vector<int64_t> first;
  for (int64_t row = 0; row <= deal.rows; ++row) first.push_back(row * deal.pieces_a_row());
  return first;
}

Tensor states_of_rows(const Tensor& states, const Deal& deal) {
  return Tensor::empty(states.shape().with(0, deal.rows), states.dtype(), states.device());
}

}  // namespace

std::vector<Piece> pieces_of(const Runs& runs, const Deal& deal) {
  std::vector<Piece> pieces(deal.entering());
  for (int64_t r = 0; r < static_cast<int64_t>(runs.size()); ++r) {
    Piece& piece = pieces[runs[r].row * deal.pieces + runs[r].begin / deal.piece_length];
    if (piece.first < 0) {
      piece.first = r;
      piece.enters = !runs[r].opens();
    }
    piece.last = r;
  }
  return pieces;
}

Tensor fold_pieces(const Tensor& decay, const Tensor& left, const Deal& deal) {
  const Tensor ordered = in_order(left, deal), before = empty_like(ordered);
  launch(ordered.device(), AffineScanForward{.entering = before,
                                             .leaving = states_of_rows(left, deal),
                                             .total_decay = {},
                                             .start = {},
                                             .decay = in_order(decay, deal),
                                             .local = ordered,
                                             .first_chunk = first_piece_of_rows(deal)});
  return of_this_rank(before, deal);
}

Tensor fold_pieces_back(const Tensor& decay, const Tensor& d_entering, const Deal& deal) {
  const Tensor ordered = in_order(decay, deal), d_before = in_order(d_entering, deal), d_after = empty_like(d_before);
  launch(decay.device(), AffineScanBackward{.d_decay = empty_like(ordered),
                                            .d_local = d_after,
                                            .d_start = states_of_rows(d_entering, deal),
                                            .d_entering = d_before,
                                            .d_leaving = {},
                                            .decay = ordered,
                                            .entering = d_before,  // any values: they go into d_decay alone, which nobody reads
                                            .first_chunk = first_piece_of_rows(deal)});
  return of_this_rank(d_after, deal);
}

Tensor behind_last_runs(const Tensor& of_pieces, const std::vector<Piece>& pieces, int64_t runs) {
  const Tensor of_runs = Tensor::zeros(of_pieces.shape().with(0, runs), of_pieces.dtype(), of_pieces.device());
  for (int64_t e = 0; e < std::ssize(pieces); ++e) of_runs.select(0, pieces[e].last).copy_from(of_pieces.select(0, e));
  return of_runs;
}

}  // namespace ropewalk
