// Both passes hold one tile fixed and stream the other side past it: forward holds queries, backward keys. A tile of scores is
// (fixed rows) x (streamed columns). The fixed side is packed by the task that holds it; the streamed side once a launch, in tiles of the
// tensor's own tokens: what of a tile a run does not hold is hidden in the scores.
#include <numeric>
#include <utility>

#include "kernels/attention/attention.h"
#include "kernels/attention/few_queries.h"
#include "kernels/attention/heads.h"
#include "kernels/attention/results.h"
#include "kernels/attention/score_tile.h"
#include "kernels/matmul/panels.h"

namespace ropewalk {
namespace {

// What both passes share.
template <class T, class P>
class Pass {
 protected:
  using W = Wide<T>;
  using Element = typename P::Element;

  template <class Args>
  explicit Pass(const Args& args)
      : plan_(args.spans, args.options.window, args.q.shape(), args.k.shape()),
        q_(args.q),
        k_(args.k),
        v_(args.v),
        scale_(static_cast<W>(args.options.scale)),
        tokens_(args.q.dim(1)),
        heads_(args.q.dim(2)),
        kv_heads_(args.k.dim(2)),
        group_(heads_ / kv_heads_),
        width_(args.q.dim(3)),
        units_(static_cast<int64_t>(plan_.groups.size()) * kv_heads_) {}

  const Group& group_of(int64_t unit) const { return plan_.groups[static_cast<size_t>(unit / kv_heads_)]; }
  int64_t kv_head_of(int64_t unit) const { return unit % kv_heads_; }

  int64_t columns_size() const { return P::right_size(width_, kTile); }
  int64_t rows_size() const { return P::right_size(kTile, width_); }
  // Left operands [tokens, P]; right operands [P, tokens] and [tokens, P].
  void pack_left(const HeadRows<const T>& from, Element* to) const { P::left(from.tokens, width_, from.data, from.stride, to); }
  void pack_columns(const HeadRows<const T>& from, Element* to) const {
    P::right_transposed(width_, from.tokens, from.data, from.stride, to);
  }
  void pack_rows(const HeadRows<const T>& from, Element* to) const { P::right(from.tokens, width_, from.data, from.stride, to); }

  // Where the statistic of the first token stands in [B, H, S].
  int64_t statistic_at(const TokenRange& queries, int64_t head) const { return (queries.row * heads_ + head) * tokens_ + queries.begin; }

  Plan plan_;
  HeadsView<const T> q_, k_, v_;
  W scale_;
  int64_t tokens_, heads_, kv_heads_, group_, width_;
  Units units_;
};

template <class T, class P>
class ForwardPass : Pass<T, P> {
  using Base = Pass<T, P>;
  using Base::plan_, Base::q_, Base::k_, Base::v_, Base::scale_, Base::group_, Base::width_, Base::units_;
  using typename Base::W, typename Base::Element;

 public:
  explicit ForwardPass(const AttentionForward& args)
      : Base(args),
        results_(args),
        reader_(plan_.keys, width_),
        k_columns_(units_.slots(), plan_.most_keys_read(), Base::columns_size()),
        v_rows_(units_.slots(), plan_.most_keys_read(), Base::rows_size()),
        q_room_(P::left_size(kTile, width_)),
        p_room_(P::left_size(kTile, kTile)),
        scores_(kTile * kTile),
        y_sums_(kTile * width_) {}

  void run() const {
    units_.template run<typename P::Session>(
        UnitPhase{[&](int64_t unit) { return static_cast<int64_t>(Base::group_of(unit).keys_read.size()); },
                  [&](int64_t unit, int64_t place, int64_t slot) { pack(unit, place, slot); }},
        UnitPhase{[&](int64_t unit) { return static_cast<int64_t>(Base::group_of(unit).queries.size()) * group_; },
                  [&](int64_t unit, int64_t piece, int64_t slot) {
                    attend(Base::group_of(unit).queries[static_cast<size_t>(piece / group_)],
                           Base::kv_head_of(unit) * group_ + piece % group_, slot);
                  }});
  }

 private:
  struct Statistics {
    static constexpr int64_t kLanes = score_tile::kLanes<W>;
    W top[kTile], lanes[kTile * kLanes] = {}, decay[kTile];
    Statistics() { std::fill_n(top, kTile, std::numeric_limits<W>::lowest()); }
    W sum(int64_t row) const { return std::accumulate(lanes + row * kLanes, lanes + (row + 1) * kLanes, W(0)); }
  };

  void pack(int64_t unit, int64_t place, int64_t slot) const {
    const int64_t tile = Base::group_of(unit).keys_read[static_cast<size_t>(place)], head = Base::kv_head_of(unit);
    Base::pack_columns(reader_.read(k_, tile, head), k_columns_.at(slot, place));
    Base::pack_rows(reader_.read(v_, tile, head), v_rows_.at(slot, place));
  }

  void attend(const QueryTile& queries, int64_t head, int64_t slot) const {
    W* const y = y_sums_.mine();
    Statistics statistics;
    std::fill_n(y, queries.tokens.length * width_, W(0));
    results_.prefetch(queries.tokens, head);
    Base::pack_left(q_.rows(queries.tokens, head), q_room_.mine());
    for (const KeyRun& run : queries.run->keys)
      plan_.keys.for_each(plan_.visibility.keys_of(queries.tokens, TokenRange::of(run)),
                          [&](int64_t tile, const TokenRange& keys, int64_t at) {
                            const Band band = plan_.visibility.band_of_queries(queries.tokens, keys, at);
                            add_tile(queries.tokens.length, band, tile, slot, statistics, y);
                          });
    W sums[kTile];
    for (int64_t i = 0; i < queries.tokens.length; ++i) sums[i] = statistics.sum(i);
    results_.store(queries.tokens, head, statistics.top, sums, y);
  }

  void add_tile(int64_t rows, const Band& band, int64_t tile, int64_t slot, Statistics& statistics, W* y) const {
    const int64_t columns = plan_.keys.tokens_of(tile).length, place = plan_.place_of_keys(tile);
    W* const scores = scores_.mine();
    Element* const p = p_room_.mine();
    P::multiply(rows, columns, width_, q_room_.mine(), k_columns_.at(slot, place), scores, kTile);
    const W scale = score_tile::hide_outside(rows, band, scale_, scores);
    vectorized<score_tile::softmax_step<W>>(rows, scale, scores, statistics.top, statistics.lanes, statistics.decay);
    vectorized<score_tile::decay_rows<W>>(rows, width_, statistics.decay, y);
    P::left(rows, columns, scores, kTile, p);
    P::add(rows, width_, columns, p, v_rows_.at(slot, place), y, width_);
  }

  Results<T> results_;
  TileReader<T> reader_;
  SlotTiles<Element> k_columns_, v_rows_;
  ThreadScratch<Element> q_room_, p_room_;
  ThreadScratch<W> scores_, y_sums_;
};

// to [rows] = <x, y> of each row.
template <class T, class W>
void row_dots(int64_t rows, int64_t width, const T* x, int64_t x_stride, const T* y, int64_t y_stride, W* to) {
  for (int64_t i = 0; i < rows; ++i) {
    W sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t p = 0; p < width; ++p) sum += static_cast<W>(x[i * x_stride + p]) * static_cast<W>(y[i * y_stride + p]);
    to[i] = sum;
  }
}

// Holds keys. The gradients of queries are summed on the way, since scores that are at hand need not be computed again for them. Where
// there are few units, their keys are cut into segments, each of which has sums of its own: how many follows from the shapes alone.
template <class T, class P>
class BackwardPass : Pass<T, P> {
  using Base = Pass<T, P>;
  using Base::plan_, Base::q_, Base::k_, Base::v_, Base::scale_, Base::group_, Base::width_, Base::units_;
  using typename Base::W, typename Base::Element;

 public:
  explicit BackwardPass(const AttentionBackward& args)
      : Base(args),
        args_(args),
        dy_(args.dy),
        y_(args.y),
        lse_(args.lse.data<W>()),
        delta_tensor_(empty_like(args.lse)),
        delta_(delta_tensor_.data<W>()),
        places_(plan_.most_queries_read() * group_),
        segments_(segments(units_.count(), places_ * kTile * width_)),
        reader_(plan_.queries, width_),
        q_columns_(units_.slots(), places_, Base::columns_size()),
        q_rows_(units_.slots(), places_, Base::rows_size()),
        dy_columns_(units_.slots(), places_, Base::columns_size()),
        dy_rows_(units_.slots(), places_, Base::rows_size()),
        dq_sums_(units_.slots(), args.dq ? segments_ * places_ : 0, kTile * width_),
        dq_begun_(units_.slots(), args.dq ? segments_ * places_ : 0, 1),
        k_room_(P::left_size(kTile, width_)),
        k_rows_room_(Base::rows_size()),
        v_room_(P::left_size(kTile, width_)),
        factor_room_(P::left_size(kTile, kTile)),
        scores_(kTile * kTile),
        slopes_(kTile * kTile),
        dk_sums_(kTile * width_),
        dv_sums_(kTile * width_) {}

  void run() const {
    const auto query_pieces = [&](int64_t unit) { return static_cast<int64_t>(Base::group_of(unit).queries_read.size()) * group_; };
    units_.template run<typename P::Session>(
        UnitPhase{query_pieces, [&](int64_t unit, int64_t place, int64_t slot) { prepare(unit, place, slot); }},
        UnitPhase{[&](int64_t) { return segments_; }, [&](int64_t unit, int64_t segment, int64_t slot) { find(unit, segment, slot); }},
        UnitPhase{[&](int64_t unit) { return args_.dq ? static_cast<int64_t>(Base::group_of(unit).queries.size()) * group_ : 0; },
                  [&](int64_t unit, int64_t piece, int64_t slot) {
                    store_query_gradient(Base::group_of(unit).queries[static_cast<size_t>(piece / group_)].tokens,
                                         Base::kv_head_of(unit) * group_ + piece % group_, slot);
                  }});
  }

 private:
  // As many tasks at least, if there are tiles enough, and if the sums of all segments do not take too much (256 MiB in fp32).
  static int64_t segments(int64_t units, int64_t sums_of_unit) {
    constexpr int64_t kTasks = 32, kMostSums = 1 << 26;
    const int64_t sums = std::max<int64_t>(1, units * sums_of_unit);
    return std::max<int64_t>(1, std::min(kTasks / std::max<int64_t>(1, units), kMostSums / sums));
  }

  // A place is a tile and head.
  int64_t place_of(int64_t tile, int64_t head) const { return plan_.place_of_queries(tile) * group_ + head % group_; }

  // Most segments reach only some of the queries, so only the first one's sums begin before anything is added to them.
  void prepare_dq_sums(int64_t slot, int64_t place) const {
    for (int64_t segment = 0; segment < segments_; ++segment) *dq_begun_.at(slot, segment * places_ + place) = 0;
    begun_dq_sums(slot, 0, place);
  }
  W* begun_dq_sums(int64_t slot, int64_t segment, int64_t place) const {
    W* const sums = dq_sums_.at(slot, segment * places_ + place);
    if (!std::exchange(*dq_begun_.at(slot, segment * places_ + place), 1)) std::fill_n(sums, kTile * width_, W(0));
    return sums;
  }

  void prepare(int64_t unit, int64_t place, int64_t slot) const {
    const int64_t tile = Base::group_of(unit).queries_read[static_cast<size_t>(place / group_)];
    const int64_t head = Base::kv_head_of(unit) * group_ + place % group_;
    const HeadRows<const T> q_rows = reader_.read(q_, tile, head);
    Base::pack_columns(q_rows, q_columns_.at(slot, place));
    Base::pack_rows(q_rows, q_rows_.at(slot, place));
    const HeadRows<const T> dy_rows = reader_.read(dy_, tile, head);
    Base::pack_columns(dy_rows, dy_columns_.at(slot, place));
    Base::pack_rows(dy_rows, dy_rows_.at(slot, place));
    find_delta(tile, head, dy_rows);
    if (args_.dq) prepare_dq_sums(slot, place);
  }

  // delta = <dy, y> = sum over keys of p * dp: what the softmax's normalisation takes off every slope.
  void find_delta(int64_t tile, int64_t head, const HeadRows<const T>& dy) const {
    const TokenRange tokens = plan_.queries.tokens_of(tile);
    const HeadRows<const T> y = y_.rows(tokens, head);
    vectorized<row_dots<T, W>>(y.tokens, width_, dy.data, dy.stride, y.data, y.stride, delta_ + Base::statistic_at(tokens, head));
  }

  void find(int64_t unit, int64_t segment, int64_t slot) const {
    const std::vector<KeyTile>& tiles = Base::group_of(unit).keys;
    const auto count = static_cast<int64_t>(tiles.size());
    for (int64_t i = segment * count / segments_; i < (segment + 1) * count / segments_; ++i)
      find_key_gradients(tiles[static_cast<size_t>(i)], Base::kv_head_of(unit), segment, slot);
  }

  // Also where nobody reads the tile: then the gradients are 0.
  void find_key_gradients(const KeyTile& tile, int64_t kv_head, int64_t segment, int64_t slot) const {
    W *const dk = dk_sums_.mine(), *const dv = dv_sums_.mine();
    std::fill_n(dk, tile.length * width_, W(0));
    std::fill_n(dv, tile.length * width_, W(0));
    const TokenRange keys{tile.row, tile.begin, tile.length, 0};
    if (args_.dk) {
      const auto prefetch = [&](const auto& rows) { prefetch_rows(width_, rows); };
      with_rows<T>(args_.dk, keys, kv_head, prefetch);
      with_rows<T>(args_.dv, keys, kv_head, prefetch);
    }
    for (const KeyUse& use : tile.uses) {
      const int64_t offset = (use.keys.begin - tile.begin) * width_;
      add_use(use, kv_head, segment, slot, dk + offset, dv + offset);
    }
    if (!args_.dk) return;
    store_scaled(dk, scale_, args_.dk, keys, kv_head);
    store_scaled(dv, W(1), args_.dv, keys, kv_head);
  }

  void add_use(const KeyUse& use, int64_t kv_head, int64_t segment, int64_t slot, W* dk, W* dv) const {
    const HeadRows<const T> k_rows = k_.rows(use.keys, kv_head);
    Base::pack_left(k_rows, k_room_.mine());
    Base::pack_rows(k_rows, k_rows_room_.mine());
    Base::pack_left(v_.rows(use.keys, kv_head), v_room_.mine());
    for (int64_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head)
      plan_.queries.for_each(plan_.visibility.queries_of(use.keys, TokenRange::of(*use.run)),
                             [&](int64_t tile, const TokenRange& seen_by, int64_t at) {
                               const Band band = plan_.visibility.band_of_keys(use.keys, seen_by, at);
                               find_slopes(use.keys.length, band, tile, head, slot);
                               add_tile(use.keys.length, tile, head, segment, slot, dk, dv);
                             });
  }

  // Of the keys held: the probabilities [keys, queries of the tile] and the slopes of their scores.
  void find_slopes(int64_t rows, const Band& band, int64_t tile, int64_t head, int64_t slot) const {
    const TokenRange tokens = plan_.queries.tokens_of(tile);
    const int64_t columns = tokens.length, statistics = Base::statistic_at(tokens, head), place = place_of(tile, head);
    W *const scores = scores_.mine(), *const slopes = slopes_.mine();
    W lse[kTile] = {}, delta[kTile] = {};  // copies, because the tensors' rows may end inside a vector
    std::copy_n(lse_ + statistics, columns, lse);
    std::copy_n(delta_ + statistics, columns, delta);
    P::multiply(rows, columns, width_, k_room_.mine(), q_columns_.at(slot, place), scores, kTile);
    P::multiply(rows, columns, width_, v_room_.mine(), dy_columns_.at(slot, place), slopes, kTile);
    vectorized<score_tile::find_slopes<W>>(rows, scale_, lse, delta, scores, slopes);
    score_tile::fill_outside(rows, band, W(0), scores);
    score_tile::fill_outside(rows, band, W(0), slopes);
  }

  void add_tile(int64_t rows, int64_t tile, int64_t head, int64_t segment, int64_t slot, W* dk, W* dv) const {
    const int64_t columns = plan_.queries.tokens_of(tile).length, place = place_of(tile, head);
    Element* const factor = factor_room_.mine();
    const W *const scores = scores_.mine(), *const slopes = slopes_.mine();
    if (args_.dk) {
      P::left(rows, columns, scores, kTile, factor);
      P::add(rows, width_, columns, factor, dy_rows_.at(slot, place), dv, width_);
      P::left(rows, columns, slopes, kTile, factor);
      P::add(rows, width_, columns, factor, q_rows_.at(slot, place), dk, width_);
    }
    if (args_.dq) {
      P::left_transposed(columns, rows, slopes, kTile, factor);
      P::add(columns, width_, rows, factor, k_rows_room_.mine(), begun_dq_sums(slot, segment, place), width_);
    }
  }

  void store_query_gradient(const TokenRange& queries, int64_t head, int64_t slot) const {
    plan_.queries.for_each(queries, [&](int64_t tile, const TokenRange& tokens, int64_t at) {
      const int64_t place = place_of(tile, head), size = tokens.length * width_;
      W* const sums = dq_sums_.at(slot, place) + at * width_;
      for (int64_t segment = 1; segment < segments_; ++segment) {
        if (!*dq_begun_.at(slot, segment * places_ + place)) continue;
        const W* const more = dq_sums_.at(slot, segment * places_ + place) + at * width_;
        for (int64_t i = 0; i < size; ++i) sums[i] += more[i];
      }
      if (args_.merge)
        add_scaled(sums, scale_, HeadsView<W>(args_.dq).rows(tokens, head));
      else
        store_scaled(sums, scale_, args_.dq, tokens, head);
    });
  }

  void store_scaled(const W* from, W scale, const Tensor& x, const TokenRange& tokens, int64_t head) const {
    W factors[kTile];
    std::fill_n(factors, kTile, scale);
    with_rows<T>(x, tokens, head, [&]<class X>(const HeadRows<X>& to) {
      vectorized<store_rows<X, W>>(to.tokens, width_, factors, from, to.data, to.stride);
    });
  }

  void add_scaled(const W* from, W scale, const HeadRows<W>& to) const {
    W kept[kTile], factors[kTile];
    std::fill_n(kept, kTile, W(1));
    std::fill_n(factors, kTile, scale);
    vectorized<add_rows<W>>(to.tokens, width_, kept, factors, from, to.data, to.stride);
  }

  const AttentionBackward& args_;
  HeadsView<const T> dy_, y_;
  const W* lse_;
  Tensor delta_tensor_;
  W* delta_;
  int64_t places_, segments_;
  TileReader<T> reader_;
  SlotTiles<Element> q_columns_, q_rows_, dy_columns_, dy_rows_;
  SlotTiles<W> dq_sums_;
  SlotTiles<uint8_t> dq_begun_;  // of each of these sums
  ThreadScratch<Element> k_room_, k_rows_room_, v_room_, factor_room_;
  ThreadScratch<W> scores_, slopes_, dk_sums_, dv_sums_;
};

}  // namespace

void launch(Cpu, const AttentionForward& args) {
  dispatch_float(args.q.dtype(), [&]<class T>(std::type_identity<T>) {
    if (are_few<T>(args)) return FewQueries<T>(args).run();
    with_panels<T>(false, [&]<class P>(P) { ForwardPass<T, P>(args).run(); });
  });
}

void launch(Cpu, const AttentionBackward& args) {
  dispatch_float(args.q.dtype(),
                 [&]<class T>(std::type_identity<T>) { with_panels<T>(false, [&]<class P>(P) { BackwardPass<T, P>(args).run(); }); });
}

}  // namespace ropewalk
