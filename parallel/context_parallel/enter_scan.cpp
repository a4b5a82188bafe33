#include "parallel/context_parallel/context_parallel.h"
#include "parallel/context_parallel/piece_fold.h"

namespace ropewalk {
namespace {

// What forward and backward of the hand-over share.
struct ScanHandOver {
  std::vector<Piece> pieces;
  Deal deal;
  Group group;
  Shape of_runs, of_pieces;  // [., C, N]
  DType dtype;               // of states

  Tensor zeros(const Shape& shape) const { return Tensor::zeros(shape, dtype); }
};

ScanHandOver hand_over(const SelectiveScanInputs& in, const Context& ctx) {
  const Deal deal = deal_of(ctx);
  const Shape of_runs{std::ssize(in.runs), in.x.dim(2), in.b.dim(3)};
  return {.pieces = pieces_of(in.runs, deal),
          .deal = deal,
          .group = ctx.cp.group,
          .of_runs = of_runs,
          .of_pieces = of_runs.with(0, deal.entering()),
          .dtype = wide(in.x.dtype())};
}

SelectiveScanOperands over(const Runs& runs, SelectiveScanOperands operands) {
  operands.runs = runs;
  return operands;
}

// The fold counts decays by head, of which a head of this scan has one for each channel and state.
Tensor for_fold(const Tensor& states) { return states.reshape({states.dim(0), states.dim(1) * states.dim(2), 1, 1}); }
Tensor decay_for_fold(const Tensor& decay) { return decay.reshape({decay.dim(0), decay.dim(1) * decay.dim(2)}); }

// Runs of some pieces, and which pieces.
struct Chosen {
  Runs runs;
  std::vector<int64_t> piece;
};

// Of each piece its first or its last run, where `wanted` says so of the run.
template <class Wanted>
Chosen choose(int64_t Piece::*end, const Runs& runs, const ScanHandOver& h, const Wanted& wanted) {
  Chosen chosen;
  for (int64_t e = 0; e < h.deal.entering(); ++e) {
    const Run& run = runs[h.pieces[e].*end];
    if (!wanted(run)) continue;
    chosen.runs.push_back(run);
    chosen.piece.push_back(e);
  }
  return chosen;
}

Chosen handing_on(const Runs& runs, const ScanHandOver& h) {
  return choose(&Piece::last, runs, h, [](const Run& run) { return !run.closes; });
}

Chosen taking_over(const Runs& runs, const ScanHandOver& h) {
  return choose(&Piece::first, runs, h, [](const Run& run) { return !run.opens(); });
}

// What enters this rank's pieces, and the decays of all pieces, which backward needs again.
Tensors receive_states(const SelectiveScanInputs& in, const ScanHandOver& h) {
  const Chosen last = handing_on(in.runs, h);
  const Shape of_chosen = h.of_runs.with(0, std::ssize(last.runs));
  const Tensor decay = h.zeros(of_chosen), left = h.zeros(of_chosen);
  launch(decay.device(), SelectiveScanSummary{.decay = decay, .left = left, .in = over(last.runs, operands_of(in)())});
  const Tensor own_decay = h.zeros(h.of_pieces), own_left = h.zeros(h.of_pieces);
  for (int64_t i = 0; i < std::ssize(last.runs); ++i) {
    own_left.select(0, last.piece[i]).copy_from(left.select(0, i));
    if (h.pieces[last.piece[i]].passes_through()) own_decay.select(0, last.piece[i]).copy_from(decay.select(0, i));
  }
  const Tensor all_decay = h.group.all_gather(decay_for_fold(own_decay), 0, "enter_scan.decay");
  const Tensor all_left = h.group.all_gather(for_fold(own_left), 0, "enter_scan");
  return {fold_pieces(all_decay, all_left, h.deal).reshape(h.of_pieces), all_decay};
}

// The gradients of the states that leave the runs, from what later pieces made of them.
Tensor receive_gradients(const Tensor& dy, const SelectiveScanOperands& in, const Tensor& all_decay, const ScanHandOver& h) {
  const Chosen first = taking_over(in.runs, h);
  const Tensor d_start = h.zeros(h.of_runs.with(0, std::ssize(first.runs)));
  launch(dy.device(), SelectiveScanAdjoint{.d_entering = d_start, .dy = dy, .in = over(first.runs, in)});
  const Tensor d_entering = h.zeros(h.of_pieces);
  for (int64_t i = 0; i < std::ssize(first.runs); ++i) d_entering.select(0, first.piece[i]).copy_from(d_start.select(0, i));
  const Tensor d_after =
      fold_pieces_back(all_decay, h.group.all_gather(for_fold(d_entering), 0, "enter_scan.backward"), h.deal).reshape(h.of_pieces);
  return behind_last_runs(d_after, h.pieces, h.of_runs[0]);
}

SelectiveScan decode(SelectiveScanInputs in, const Context& ctx, int slot) {
  Tensor& state = advanced_state(ctx).tensors[slot];
  in.h0 = state;
  const SelectiveScan scan = selective_scan(in);
  state = scan.leaving.data();
  return scan;
}

}  // namespace

SelectiveScan enter_scan(SelectiveScanInputs in, const Context& ctx, int slot) {
  if (ctx.decoding()) return decode(in, ctx, slot);
  if (!something_enters(ctx.layout())) return selective_scan(in);
  const ScanHandOver h = hand_over(in, ctx);
  const Tensors received = ctx.receive([&] { return receive_states(in, h); });
  in.h0 = received[0];
  const SelectiveScan scan = selective_scan(in);
  // To the tape what enters is a constant. What other ranks did with the states that left comes back as the gradient of `leaving`: this
  // node stands behind the scan, so its rule runs first.
  const auto rule = [operands = operands_of(in), all_decay = received[1], h](Backprop& b) {
    const Tensor dy = b.dy(0).packed();
    b.give(1, receive_gradients(dy, operands(), all_decay, h));
    b.give(0, dy);
  };
  const Var y = record("enter_scan", {scan.y, scan.leaving}, scan.y.data(), rule);
  return {.y = y, .leaving = scan.leaving};
}

}  // namespace ropewalk
