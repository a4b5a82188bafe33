// What the moves of context parallelism share: how rows are dealt to ranks, and what a call site has seen when decoding.
#pragma once

#include <algorithm>
#include <utility>

#include "parallel/context.h"

namespace ropewalk {

inline constexpr int kSequence = 1;  // the dim of tokens

// How the rows' pieces are dealt to the ranks of the context group. Entering values, of which each piece has one, are gathered by rank.
struct Deal {
  int64_t rank, ranks, rows, pieces, piece_length;  // pieces: of a row and rank

  int64_t entering() const { return rows * pieces; }  // values of one rank
  int64_t pieces_a_row() const { return ranks * pieces; }
  // Where a rank's piece with entering value e stands among all pieces, counted through row after row.
  int64_t place(int64_t of_rank, int64_t e) const { return e / pieces * pieces_a_row() + piece_of(of_rank, ranks, e % pieces); }
  // The rank that holds a piece of a row, and as its how-manieth: the inverse of piece_of.
  std::pair<int64_t, int64_t> holder_of(int64_t piece) const {
    const int64_t j = piece / ranks, i = piece % ranks;
    return {j % 2 == 0 ? i : ranks - 1 - i, j};
  }
};

inline Deal deal_of(const Context& ctx) {
  const Layout& layout = ctx.layout();
  const int64_t rank = ctx.cp.group.rank(), ranks = ctx.cp.group.size();
  expect(static_cast<int64_t>(layout.runs_of.size()) == ranks, "context parallelism: expected a layout over {} ranks, given one over {}",
         ranks, layout.runs_of.size());
  return {rank, ranks, layout.rows, layout.pieces, layout.length / layout.pieces};
}

// On any rank, so that all decide alike whether to talk.
inline bool something_enters(const Layout& layout) {
  const auto enters = [](const Run& run) { return !run.opens(); };
  return std::any_of(layout.runs_of.begin(), layout.runs_of.end(),
                     [&](const Runs& runs) { return std::any_of(runs.begin(), runs.end(), enters); });
}

// Decoding: tokens of each row that the states held before this call.
inline int64_t seen_before(const Layout& layout) { return layout.runs.empty() ? 0 : layout.runs.front().position; }

// The call site's state, which knows by now how many tokens it will have seen after this call.
inline State& advanced_state(const Context& ctx) {
  State& state = ctx.state();
  state.length = seen_before(ctx.layout()) + ctx.layout().length;
  return state;
}

}  // namespace ropewalk
