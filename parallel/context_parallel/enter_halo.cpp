#include <algorithm>

#include "parallel/context_parallel/context_parallel.h"
#include "parallel/context_parallel/deal.h"

namespace ropewalk {
namespace {

// Neighbouring tokens of one piece that enter another piece.
struct Reach {
  int64_t to_rank, to, at;              // entering value `to` of that rank, from its index `at` on
  int64_t owner, row, j, begin, count;  // tokens [begin, begin + count) of the owner's j-th piece
};

// Walks back from a continued piece, as far as its document and the width reach.
void add_reaches(const Run& run, int64_t rank, int64_t width, const Deal& deal, std::vector<Reach>& reaches) {
  const int64_t reach = std::min(width, run.position);
  int64_t piece = piece_of(rank, deal.ranks, run.enters % deal.pieces);
  for (int64_t reached = 0, count; reached < reach; reached += count) {
    const auto [owner, j] = deal.holder_of(--piece);
    count = std::min(reach - reached, deal.piece_length);
    reaches.push_back({.to_rank = rank,
                       .to = run.enters,
                       .at = width - reached - count,
                       .owner = owner,
                       .row = run.row,
                       .j = j,
                       .begin = deal.piece_length - count,
                       .count = count});
  }
}

// What this rank takes from others' pieces, and what of its own pieces it gives.
struct Reaches {
  std::vector<Reach> taken, given;
};
Reaches reaches_of(const Layout& layout, const Deal& deal, int64_t width) {
  std::vector<Reach> all;
  for (int64_t rank = 0; rank < deal.ranks; ++rank)
    for (const Run& run : layout.runs_of[rank])
      if (!run.opens()) add_reaches(run, rank, width, deal, all);
  Reaches mine;
  for (const Reach& reach : all) {
    if (reach.to_rank == deal.rank) mine.taken.push_back(reach);
    if (reach.owner == deal.rank) mine.given.push_back(reach);
  }
  return mine;
}

// Every rank gets the end of every piece; the halo is put together when it is first read.
Tensor receive_halo(const Tensor& x_BSC, int64_t width, const Deal& deal, std::vector<Reach> reaches, const Group& group) {
  const int64_t kept = std::min(width, deal.piece_length), before = deal.piece_length - kept;
  const Tensor ends = group.all_gather(x_BSC.split_dim(kSequence, deal.piece_length).narrow(2, before, kept), 0, "enter_halo");
  const Tensor halo = Tensor::empty({deal.entering(), width, x_BSC.dim(2)}, x_BSC.dtype(), x_BSC.device());
  halo.pend([=, reaches = std::move(reaches)](const Tensor& to) {
    to.fill(0);
    for (const Reach& r : reaches) {
      const Tensor end = ends.select(0, r.owner * deal.rows + r.row).select(0, r.j);
      to.select(0, r.to).narrow(0, r.at, r.count).copy_from(end.narrow(0, r.begin - before, r.count));
    }
  });
  return halo;
}

Tensor return_halo(const Tensor& d_halo, const Shape& x_shape, const Deal& deal, const std::vector<Reach>& reaches, const Group& group) {
  const Tensor all = group.all_gather(d_halo, 0, "enter_halo.backward");
  const Tensor dx = Tensor::zeros(x_shape, d_halo.dtype(), d_halo.device());
  const Tensor by_piece = dx.split_dim(kSequence, deal.piece_length);
  for (const Reach& r : reaches) {
    const Tensor end = by_piece.select(0, r.row).select(0, r.j).narrow(0, r.begin, r.count);
    end.add(all.select(0, r.to_rank * deal.entering() + r.to).narrow(0, r.at, r.count));
  }
  return dx;
}

// The last `width` of (tail ++ x) stay for the next call.
Tensor cached_halo(const Tensor& x_BSC, int64_t width, const Context& ctx, int slot) {
  Tensor& tail = advanced_state(ctx).tensors[slot];
  const Tensor halo = tail;
  const int64_t fresh = std::min(width, x_BSC.dim(kSequence)), kept = width - fresh;
  tail = empty_like(halo);
  tail.narrow(kSequence, 0, kept).copy_from(halo.narrow(kSequence, fresh, kept));
  tail.narrow(kSequence, kept, fresh).copy_from(x_BSC.narrow(kSequence, x_BSC.dim(kSequence) - fresh, fresh));
  return halo;
}

}  // namespace

Var enter_halo(const Var& x_BSC, int64_t width, const Context& ctx, int slot) {
  if (width == 0) return {};
  if (ctx.decoding()) return cached_halo(x_BSC.data(), width, ctx, slot);
  if (!something_enters(ctx.layout())) return {};
  const Deal deal = deal_of(ctx);
  const Group group = ctx.cp.group;
  const Reaches reaches = reaches_of(ctx.layout(), deal, width);
  const Tensors halo = ctx.receive([&] { return Tensors{receive_halo(x_BSC.data(), width, deal, reaches.taken, group)}; });
  return record("enter_halo", {x_BSC}, halo.front(), [shape = x_BSC.shape(), deal, given = reaches.given, group](Backprop& b) {
    b.give(0, return_halo(b.dy(0), shape, deal, given, group));
  });
}

}  // namespace ropewalk
