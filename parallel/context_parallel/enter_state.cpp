#include "kernels/affine_scan/affine_scan.h"
#include "parallel/context_parallel/context_parallel.h"
#include "parallel/context_parallel/piece_fold.h"

namespace ropewalk {
namespace {

// What a scan over this rank's chunks shares between forward, completion and backward. Does not hold what only forward needs.
struct StateHandOver {
  Tensor decay;  // [C, H]
  std::vector<int64_t> first_chunk;
  std::vector<Piece> pieces;
  Deal deal;
  Group group;
  Shape of_chunks, of_runs, of_pieces;  // [., H, P, N]

  Tensor make(const Shape& shape) const { return Tensor::empty(shape, decay.dtype(), decay.device()); }
  Tensor zeros(const Shape& shape) const { return Tensor::zeros(shape, decay.dtype(), decay.device()); }
};

StateHandOver hand_over(const SsdStates& states, const std::vector<int64_t>& first_chunk, const Context& ctx) {
  const Deal deal = deal_of(ctx);
  const Shape& shape = states.local.shape();
  const auto runs = static_cast<int64_t>(ctx.layout().runs.size());
  expect(static_cast<int64_t>(first_chunk.size()) == runs + 1, "enter_state: first_chunk: expected {} entries, given {}", runs + 1,
         first_chunk.size());
  return {.decay = states.decay.data(),
          .first_chunk = first_chunk,
          .pieces = pieces_of(ctx.layout().runs, deal),
          .deal = deal,
          .group = ctx.cp.group,
          .of_chunks = shape,
          .of_runs = shape.with(0, runs),
          .of_pieces = shape.with(0, deal.entering())};
}

// The states before each chunk, from those before each run (empty: zeros) on. Returns the states after each run.
Tensor scan(const Tensor& h0, const Tensor& start, const Tensor& total_decay, const Tensor& local, const StateHandOver& h) {
  const Tensor leaving = h.make(h.of_runs);
  launch(h0.device(), AffineScanForward{.entering = h0,
                                        .leaving = leaving,
                                        .total_decay = total_decay,
                                        .start = start,
                                        .decay = h.decay,
                                        .local = local,
                                        .first_chunk = h.first_chunk});
  return leaving;
}

struct ScanGradients {
  Tensor decay, local, start;
};
ScanGradients scan_backward(const Tensor& d_h0, const Tensor& d_leaving, const Tensor& h0, const StateHandOver& h) {
  const ScanGradients d{empty_like(h.decay), h.make(h.of_chunks), h.make(h.of_runs)};
  launch(h0.device(), AffineScanBackward{.d_decay = d.decay,
                                         .d_local = d.local,
                                         .d_start = d.start,
                                         .d_entering = d_h0,
                                         .d_leaving = d_leaving,
                                         .decay = h.decay,
                                         .entering = h0,
                                         .first_chunk = h.first_chunk});
  return d;
}

// The states before each run, zeros where a document opens, from those before each piece.
Tensor start_of_runs(const Tensor& entering, const StateHandOver& h) {
  const Tensor start = h.zeros(h.of_runs);
  for (int64_t e = 0; e < h.deal.entering(); ++e)
    if (h.pieces[e].enters) start.select(0, h.pieces[e].first).copy_from(entering.select(0, e));
  return start;
}

// Of all pieces, by rank.
struct Summaries {
  Tensor decay, left;
};
Summaries gather_summaries(const Tensor& scratch, const Tensor& local, const StateHandOver& h) {
  const Tensor total_decay = h.make(h.of_runs.first(2));
  const Tensor leaving = scan(scratch, {}, total_decay, local, h);
  const Summaries own{h.zeros(h.of_pieces.first(2)), h.make(h.of_pieces)};
  for (int64_t e = 0; e < h.deal.entering(); ++e) {
    const Piece& piece = h.pieces[e];
    own.left.select(0, e).copy_from(leaving.select(0, piece.last));
    if (piece.passes_through()) own.decay.select(0, e).copy_from(total_decay.select(0, piece.first));
  }
  return {h.group.all_gather(own.decay, 0, "enter_state.decay"), h.group.all_gather(own.left, 0, "enter_state")};
}

// The states that enter this rank's pieces; pending.
Tensor fold_summaries(const Summaries& all, const StateHandOver& h) {
  const Tensor entering = h.make(h.of_pieces);
  entering.pend([all, deal = h.deal](const Tensor& mine) { mine.copy_from(fold_pieces(all.decay, all.left, deal)); });
  return entering;
}

// From the gradients of the states before each run to those of the states after each run.
Tensor fold_gradients(const Tensor& d_start, const Tensor& all_decay, const StateHandOver& h) {
  const Tensor d_entering = h.zeros(h.of_pieces);
  for (int64_t e = 0; e < h.deal.entering(); ++e)
    if (h.pieces[e].enters) d_entering.select(0, e).copy_from(d_start.select(0, h.pieces[e].first));
  const Tensor d_after = fold_pieces_back(all_decay, h.group.all_gather(d_entering, 0, "enter_state.backward"), h.deal);
  return behind_last_runs(d_after, h.pieces, h.of_runs[0]);
}

// Backward of the hand-over. Without `all_decay` nothing entered from elsewhere.
void give_state_gradients(Backprop& b, const Tensor& h0, const Tensor& all_decay, const StateHandOver& h) {
  const Tensor d_h0 = b.dy(0).packed();
  ScanGradients d = scan_backward(d_h0, {}, h0, h);
  if (all_decay) d = scan_backward(d_h0, fold_gradients(d.start, all_decay, h), h0, h);
  b.give(0, d.decay);
  b.give(1, d.local);
}

}  // namespace

Var enter_state(const SsdStates& states, const std::vector<int64_t>& first_chunk, const Context& ctx, int slot) {
  const StateHandOver h = hand_over(states, first_chunk, ctx);
  const Tensor local = states.local.data(), h0 = h.make(h.of_chunks);
  if (ctx.decoding()) {
    Tensor& cached = advanced_state(ctx).tensors[slot];
    cached = scan(h0, start_of_runs(cached, h), {}, local, h);
    return h0;
  }
  Tensor all_decay;
  if (something_enters(ctx.layout())) {
    const Tensors received = ctx.receive([&] {
      const Summaries all = gather_summaries(h0, local, h);
      return Tensors{fold_summaries(all, h), all.decay};
    });
    all_decay = received[1];
    h0.pend([entering = received[0], local, h](const Tensor& to) { scan(to, start_of_runs(entering, h), {}, local, h); });
  } else {
    scan(h0, {}, {}, local, h);
  }
  return record("enter_state", {states.decay, states.local}, h0,
                [h0, all_decay, h](Backprop& b) { give_state_gradients(b, h0, all_decay, h); });
}

}  // namespace ropewalk
