#include "parallel/context_parallel.h"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/affine_scan/affine_scan.h"

namespace ropewalk {
namespace {

constexpr int kSequence = 1;  // the dim of tokens

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

Deal deal_of(const Context& ctx) {
  const Layout& layout = ctx.layout();
  const int64_t rank = ctx.cp.group.rank(), ranks = ctx.cp.group.size();
  expect(static_cast<int64_t>(layout.runs_of.size()) == ranks, "context parallelism: expected a layout over {} ranks, given one over {}",
         ranks, layout.runs_of.size());
  return {rank, ranks, layout.rows, layout.pieces, layout.length / layout.pieces};
}

// On any rank, so that all decide alike whether to talk.
bool something_enters(const Layout& layout) {
  const auto enters = [](const Run& run) { return !run.opens(); };
  return std::any_of(layout.runs_of.begin(), layout.runs_of.end(),
                     [&](const Runs& runs) { return std::any_of(runs.begin(), runs.end(), enters); });
}

// Decoding: tokens of each row that the states held before this call.
int64_t seen_before(const Layout& layout) { return layout.runs.empty() ? 0 : layout.runs.front().position; }

// The call site's state, which knows by now how many tokens it will have seen after this call.
State& advanced_state(const Context& ctx) {
  State& state = ctx.state();
  state.length = seen_before(ctx.layout()) + ctx.layout().length;
  return state;
}

// ---- halo

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

// ---- state

// A piece of this rank's, by its runs.
struct Piece {
  int64_t first = -1, last = -1;
  bool enters = false;  // the first run continues a document
};

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

// Values of all pieces, gathered by rank, in the order of the rows' tokens.
Tensor in_order(const Tensor& by_rank, const Deal& deal) {
  const Tensor ordered = empty_like(by_rank);
  for (int64_t rank = 0; rank < deal.ranks; ++rank)
    for (int64_t e = 0; e < deal.entering(); ++e)
      ordered.select(0, deal.place(rank, e)).copy_from(by_rank.select(0, rank * deal.entering() + e));
  return ordered;
}

// A fold over the pieces of each row: to affine_scan a piece is a chunk and a row a run.
std::vector<int64_t> first_piece_of_rows(const Deal& deal) {
  std::vector<int64_t> first;
  for (int64_t row = 0; row <= deal.rows; ++row) first.push_back(row * deal.pieces_a_row());
  return first;
}

// A piece turns the state that enters it into decay * state + left; a document that opens in it makes decay zero. [all pieces, ..], by
// rank.
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
    if (piece.enters && piece.first == piece.last) own.decay.select(0, e).copy_from(total_decay.select(0, piece.first));
  }
  return {h.group.all_gather(own.decay, 0, "enter_state.decay"), h.group.all_gather(own.left, 0, "enter_state")};
}

// The states that enter this rank's pieces; pending.
Tensor fold_summaries(const Summaries& all, const StateHandOver& h) {
  const Tensor entering = h.make(h.of_pieces);
  entering.pend([all, deal = h.deal](const Tensor& mine) {
    const Tensor decay = in_order(all.decay, deal), left = in_order(all.left, deal), before = empty_like(left);
    const Tensor after_rows = Tensor::empty(left.shape().with(0, deal.rows), left.dtype(), left.device());
    launch(left.device(), AffineScanForward{.entering = before,
                                            .leaving = after_rows,
                                            .total_decay = {},
                                            .start = {},
                                            .decay = decay,
                                            .local = left,
                                            .first_chunk = first_piece_of_rows(deal)});
    for (int64_t e = 0; e < deal.entering(); ++e) mine.select(0, e).copy_from(before.select(0, deal.place(deal.rank, e)));
  });
  return entering;
}

// The transpose of the fold: from the gradients of the states before each run to those of the states after each run.
Tensor fold_gradients(const Tensor& d_start, const Tensor& all_decay, const StateHandOver& h) {
  const Tensor d_entering = h.zeros(h.of_pieces);
  for (int64_t e = 0; e < h.deal.entering(); ++e)
    if (h.pieces[e].enters) d_entering.select(0, e).copy_from(d_start.select(0, h.pieces[e].first));
  const Tensor d_before = in_order(h.group.all_gather(d_entering, 0, "enter_state.backward"), h.deal), d_after = empty_like(d_before);
  const Tensor decay = in_order(all_decay, h.deal), d_decay = empty_like(decay), d_rows = h.make(h.of_runs.with(0, h.deal.rows));
  launch(decay.device(), AffineScanBackward{.d_decay = d_decay,
                                            .d_local = d_after,
                                            .d_start = d_rows,
                                            .d_entering = d_before,
                                            .d_leaving = {},
                                            .decay = decay,
                                            .entering = d_before,  // any values: they go into d_decay alone, which nobody reads
                                            .first_chunk = first_piece_of_rows(h.deal)});
  const Tensor d_leaving = h.zeros(h.of_runs);
  for (int64_t e = 0; e < h.deal.entering(); ++e)
    d_leaving.select(0, h.pieces[e].last).copy_from(d_after.select(0, h.deal.place(h.deal.rank, e)));
  return d_leaving;
}

// Backward of the hand-over. Without `all_decay` nothing entered from elsewhere.
void give_state_gradients(Backprop& b, const Tensor& h0, const Tensor& all_decay, const StateHandOver& h) {
  const Tensor d_h0 = b.dy(0).packed();
  ScanGradients d = scan_backward(d_h0, {}, h0, h);
  if (all_decay) d = scan_backward(d_h0, fold_gradients(d.start, all_decay, h), h0, h);
  b.give(0, d.decay);
  b.give(1, d.local);
}

// ---- keys and values

using Document = std::pair<int64_t, int64_t>;  // row, index in the row

// Where the key tensor holds each document: rank r's tokens of a row stand at [r * length, (r + 1) * length). In order of position.
std::map<Document, std::vector<KeyRun>> keys_by_document(const std::vector<Runs>& runs_of, int64_t length) {
  std::map<Document, std::vector<KeyRun>> keys;
  for (size_t rank = 0; rank < runs_of.size(); ++rank)
    for (const Run& run : runs_of[rank])
      keys[{run.row, run.document}].push_back(
          {.row = run.row, .begin = static_cast<int64_t>(rank) * length + run.begin, .length = run.length, .position = run.position});
  for (auto& [document, runs] : keys)
    std::sort(runs.begin(), runs.end(), [](const KeyRun& a, const KeyRun& b) { return a.position < b.position; });
  return keys;
}

bool sees(const QueryRun& queries, const KeyRun& keys, const std::optional<int64_t>& window) {
  return keys.position <= queries.position && (!window || keys.position + keys.length > queries.position - *window + 1);
}

Spans spans_of(const Runs& runs, const std::vector<Runs>& key_runs_of, int64_t length, const std::optional<int64_t>& window) {
  const auto keys = keys_by_document(key_runs_of, length);
  Spans spans;
  for (const Run& run : runs) {
    QueryRun& queries =
        spans.emplace_back(QueryRun{.row = run.row, .begin = run.begin, .length = run.length, .position = run.position, .keys = {}});
    for (const KeyRun& key_run : keys.at({run.row, run.document}))
      if (sees(queries, key_run, window)) queries.keys.push_back(key_run);
  }
  return spans;
}

// A cache holds the key of position p at p % capacity. [begin, begin + count) of positions, which may pass the end once.
Tensor read_ring(const Tensor& cache, int64_t begin, int64_t count) {
  const int64_t capacity = cache.dim(kSequence), at = begin % capacity, before_end = std::min(count, capacity - at);
  const Tensor front = cache.narrow(kSequence, at, before_end);
  return before_end == count ? front : concat({front, cache.narrow(kSequence, 0, count - before_end)}, kSequence);
}

void write_ring(const Tensor& cache, int64_t begin, const Tensor& x) {
  const int64_t capacity = cache.dim(kSequence), count = std::min(x.dim(kSequence), capacity), skipped = x.dim(kSequence) - count;
  const int64_t at = (begin + skipped) % capacity, before_end = std::min(count, capacity - at);
  cache.narrow(kSequence, at, before_end).copy_from(x.narrow(kSequence, skipped, before_end));
  cache.narrow(kSequence, 0, count - before_end).copy_from(x.narrow(kSequence, skipped + before_end, count - before_end));
}

// The keys from position `first` on: cached ones, then x. A view of the cache as long as it holds them all.
Tensor behind_cached(const Tensor& cache, const Tensor& x_BSKP, int64_t first, int64_t before) {
  if (before + x_BSKP.dim(kSequence) <= cache.dim(kSequence)) {
    write_ring(cache, before, x_BSKP);
    return cache.narrow(kSequence, first, before + x_BSKP.dim(kSequence) - first);
  }
  const Tensor keys = concat({read_ring(cache, first, before - first), x_BSKP}, kSequence);
  write_ring(cache, before, x_BSKP);
  return keys;
}

KeyValues cached_keys(const Tensor& k, const Tensor& v, const std::optional<int64_t>& window, const Context& ctx, int slot) {
  const int64_t before = seen_before(ctx.layout()), length = ctx.layout().length;
  const int64_t first = window ? std::max<int64_t>(0, before - *window + 1) : 0;
  const Tensors& caches = advanced_state(ctx).tensors;
  const int64_t capacity = caches[slot].dim(kSequence);
  expect(capacity > 0 && before - first <= capacity && (window || before + length <= capacity),
         "enter_keys: a cache of {} tokens, given {} behind {}", capacity, length, before);
  Spans spans;
  for (const Run& run : ctx.layout().runs)
    spans.push_back({.row = run.row,
                     .begin = run.begin,
                     .length = run.length,
                     .position = run.position,
                     .keys = {{.row = run.row, .begin = 0, .length = before - first + length, .position = first}}});
  return {behind_cached(caches[slot], k, first, before), behind_cached(caches[slot + 1], v, first, before), spans};
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

KeyValues enter_keys(const Var& k_BSKP, const Var& v_BSKP, const std::optional<int64_t>& window, const Context& ctx, int slot) {
  if (ctx.decoding()) return cached_keys(k_BSKP.data(), v_BSKP.data(), window, ctx, slot);
  const Layout& layout = ctx.layout();
  const Group group = ctx.cp.group;
  if (group.size() == 1 || !something_enters(layout)) return {k_BSKP, v_BSKP, spans_of(layout.runs, {layout.runs}, layout.length, window)};
  const Tensors gathered = ctx.receive([&] {
    return Tensors{group.all_gather(k_BSKP.data(), kSequence, "enter_keys"), group.all_gather(v_BSKP.data(), kSequence, "enter_keys")};
  });
  const Vars kv = record("enter_keys", {k_BSKP, v_BSKP}, gathered, [group](Backprop& b) {
    for (int i = 0; i < 2; ++i)
      if (b.dy(i)) b.give(i, group.reduce_scatter(b.dy(i), kSequence, "enter_keys.backward"));
  });
  return {kv[0], kv[1], spans_of(layout.runs, layout.runs_of, layout.length, window)};
}

}  // namespace ropewalk
