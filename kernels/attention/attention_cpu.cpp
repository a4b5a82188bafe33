// Every pass holds one tile fixed and streams the other side past it: forward and dq hold queries, dk and dv hold keys. A tile of scores is
// (fixed rows) x (streamed columns), and what is computed from it is the left operand of the products that follow, so that none is ever
// transposed. The fixed side is packed by the task that holds it; the streamed side once a launch, in tiles of the tensor's own tokens:
// what of a tile a run does not hold is hidden in the scores.
#include <cmath>
#include <numeric>

#include "kernels/attention/attention.h"
#include "kernels/attention/few_queries.h"
#include "kernels/attention/heads.h"
#include "kernels/attention/score_tile.h"
#include "kernels/matmul/panels.h"

namespace ropewalk {
namespace {

// What all passes share.
template <class T, class P>
class Pass {
 protected:
  using W = Wide<T>;
  using Element = typename P::Element;

  template <class Args>
  explicit Pass(const Args& args)
      : spans_(args.spans),
        q_(args.q),
        k_(args.k),
        v_(args.v),
        visibility_{std::min(args.options.window.value_or(Visibility::kUnlimited), Visibility::kUnlimited)},
        scale_(static_cast<W>(args.options.scale)),
        tokens_(args.q.dim(1)),
        heads_(args.q.dim(2)),
        kv_heads_(args.k.dim(2)),
        group_(heads_ / kv_heads_),
        width_(args.q.dim(3)) {}

  // Calls body(tile, head) for all tiles of queries. The last tiles of a run, which see most keys, start first.
  template <class Body>
  void for_each_query_tile(const Body& body) const {
    const auto tiles = query_tiles(spans_);
    const auto n = static_cast<int64_t>(tiles.size());
    parallel_for(n * heads_, [&](int64_t i) { body(tiles[static_cast<size_t>(n - 1 - i % n)], i / n); });
  }

  // Calls body(tile, its columns, band of the queries in them).
  template <class Body>
  void for_each_visible_tile(const QueryTile& queries, const TokenTiles& key_tiles, const Body& body) const {
    for (const KeyRun& run : queries.run->keys)
      key_tiles.for_each(visibility_.keys_of(queries.tokens, TokenRange::of(run)), [&](int64_t tile, const TokenRange& keys, int64_t at) {
        body(tile, key_tiles.tokens_of(tile).length, visibility_.band_of_queries(queries.tokens, keys, at));
      });
  }

  // The left operand whose rows are a head's.
  void pack_rows(const HeadRows<const T>& from, Element* to) const { P::left(from.tokens, width_, from.data, from.stride, to); }

  // c [rows, kTile] = a b, where b's columns are the streamed tokens.
  void score(int64_t rows, int64_t columns, const Element* a, const Element* b, W* c) const {
    P::multiply(rows, columns, width_, a, b, c, kTile);
  }

  // sum [rows, P] += x [rows, columns] b, where b's rows are the streamed tokens. `room` takes x packed.
  void add_product(int64_t rows, int64_t columns, const W* x, const Element* b, Element* room, W* sum) const {
    P::left(rows, columns, x, kTile, room);
    P::add(rows, width_, columns, room, b, sum, width_);
  }

  PackedTiles<P> tiles_as_columns(const TokenTiles& tiles, int64_t heads) const {
    return {tiles.count(), heads, P::right_size(width_, kTile)};
  }
  PackedTiles<P> tiles_as_rows(const TokenTiles& tiles, int64_t heads) const {
    return {tiles.count(), heads, P::right_size(kTile, width_)};
  }
  void pack_columns(const HeadRows<const T>& from, Element* to) const {
    P::right_transposed(width_, from.tokens, from.data, from.stride, to);
  }
  void pack_streamed_rows(const HeadRows<const T>& from, Element* to) const { P::right(from.tokens, width_, from.data, from.stride, to); }

  // Where the statistic of the first token stands in [B, H, S].
  int64_t statistic_at(const TokenRange& queries, int64_t head) const { return (queries.row * heads_ + head) * tokens_ + queries.begin; }

  const Spans& spans_;
  HeadsView<const T> q_, k_, v_;
  Visibility visibility_;
  W scale_;
  int64_t tokens_, heads_, kv_heads_, group_, width_;
};

template <class T, class P>
class ForwardPass : Pass<T, P> {
  using Base = Pass<T, P>;
  using Base::q_, Base::k_, Base::v_, Base::scale_, Base::group_, Base::width_;
  using typename Base::W, typename Base::Element;

 public:
  explicit ForwardPass(const AttentionForward& args)
      : Base(args),
        y_(args.y),
        lse_(args.lse.data<W>()),
        tiles_(tiles_of_keys(args.spans, Base::visibility_, args.k.dim(0), args.k.dim(1))),
        k_columns_(Base::tiles_as_columns(tiles_, Base::kv_heads_)),
        v_rows_(Base::tiles_as_rows(tiles_, Base::kv_heads_)),
        q_room_(P::left_size(kTile, width_)),
        p_room_(P::left_size(kTile, kTile)),
        scores_(kTile * kTile),
        y_sums_(kTile * width_) {}

  void run() const {
    const TileReader<T> reader(tiles_, width_);
    reader.for_each(Base::kv_heads_, [&](int64_t tile, int64_t head) {
      Base::pack_columns(reader.read(k_, tile, head), k_columns_.at(tile, head));
      Base::pack_streamed_rows(reader.read(v_, tile, head), v_rows_.at(tile, head));
    });
    Base::for_each_query_tile([&](const QueryTile& queries, int64_t head) { attend(queries, head); });
  }

 private:
  struct Statistics {
    static constexpr int64_t kLanes = score_tile::kLanes<W>;
    W top[kTile], sums[kTile * kLanes] = {}, decay[kTile];
    Statistics() { std::fill_n(top, kTile, std::numeric_limits<W>::lowest()); }
    W sum(int64_t row) const { return std::accumulate(sums + row * kLanes, sums + (row + 1) * kLanes, W(0)); }
  };

  void attend(const QueryTile& queries, int64_t head) const {
    const int64_t rows = queries.tokens.length, kv_head = head / group_;
    [[maybe_unused]] const typename P::Session session;
    Element *const q = q_room_.mine(), *const p = p_room_.mine();
    W *const scores = scores_.mine(), *const y = y_sums_.mine();
    Statistics statistics;
    std::fill_n(y, rows * width_, W(0));
    Base::pack_rows(q_.rows(queries.tokens, head), q);
    Base::for_each_visible_tile(queries, tiles_, [&](int64_t tile, int64_t columns, const Band& band) {
      Base::score(rows, columns, q, k_columns_.at(tile, kv_head), scores);
      const W scale = score_tile::hide_outside(rows, band, scale_, scores);
      vectorized<score_tile::softmax_step<W>>(rows, scale, scores, statistics.top, statistics.sums, statistics.decay);
      vectorized<score_tile::decay_rows<W>>(rows, width_, statistics.decay, y);
      Base::add_product(rows, columns, scores, v_rows_.at(tile, kv_head), p, y);
    });
    finish(queries.tokens, head, statistics, y);
  }

  // The sum is 0 where a token sees no key: its y stays 0.
  void finish(const TokenRange& queries, int64_t head, const Statistics& statistics, const W* y) const {
    W* const lse = lse_ + Base::statistic_at(queries, head);
    W factors[kTile];
    for (int64_t i = 0; i < queries.length; ++i) {
      const W sum = statistics.sum(i);
      lse[i] = sum == 0 ? score_tile::kInfinity<W> : statistics.top[i] + std::log(sum);
      factors[i] = sum == 0 ? W(0) : 1 / sum;
    }
    const HeadRows<T> to = y_.rows(queries, head);
    vectorized<store_rows<T, W>>(queries.length, width_, factors, y, to.data, to.stride);
  }

  HeadsView<T> y_;
  W* lse_;
  TokenTiles tiles_;
  PackedTiles<P> k_columns_, v_rows_;
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

template <class T, class P>
class BackwardPass : Pass<T, P> {
  using Base = Pass<T, P>;
  using Base::q_, Base::k_, Base::v_, Base::spans_, Base::visibility_, Base::scale_, Base::group_, Base::heads_, Base::kv_heads_,
      Base::width_;
  using typename Base::W, typename Base::Element;

 public:
  explicit BackwardPass(const AttentionBackward& args)
      : Base(args),
        dy_(args.dy),
        lse_(args.lse.data<W>()),
        delta_tensor_(empty_like(args.lse)),
        delta_(delta_tensor_.data<W>()),
        fixed_room_(P::left_size(kTile, width_)),
        second_fixed_room_(P::left_size(kTile, width_)),
        factor_room_(P::left_size(kTile, kTile)),
        scores_(kTile * kTile),
        slopes_(kTile * kTile),
        sums_(kTile * width_),
        second_sums_(kTile * width_) {
    find_delta(HeadsView<const T>(args.y));
  }

  void find_query_gradients(const Tensor& k, const Tensor& dq) const {
    const TokenTiles tiles = tiles_of_keys(spans_, visibility_, k.dim(0), k.dim(1));
    const KeyOperands keys{tiles, Base::tiles_as_columns(tiles, kv_heads_), Base::tiles_as_columns(tiles, kv_heads_),
                           Base::tiles_as_rows(tiles, kv_heads_)};
    const TileReader<T> reader(tiles, width_);
    reader.for_each(kv_heads_, [&](int64_t tile, int64_t head) {
      const HeadRows<const T> k_rows = reader.read(k_, tile, head);
      Base::pack_columns(k_rows, keys.k_columns.at(tile, head));
      Base::pack_streamed_rows(k_rows, keys.k_rows.at(tile, head));
      Base::pack_columns(reader.read(v_, tile, head), keys.v_columns.at(tile, head));
    });
    const HeadsView<T> dq_view(dq);
    Base::for_each_query_tile([&](const QueryTile& queries, int64_t head) { query_gradient(queries, head, keys, dq_view); });
  }

  void find_key_gradients(const Tensor& q, const Tensor& dk, const Tensor& dv) const {
    const TokenTiles tiles = tiles_of_queries(spans_, q.dim(0), q.dim(1));
    const QueryOperands queries{tiles, Base::tiles_as_columns(tiles, heads_), Base::tiles_as_rows(tiles, heads_),
                                Base::tiles_as_columns(tiles, heads_), Base::tiles_as_rows(tiles, heads_)};
    const TileReader<T> reader(tiles, width_);
    reader.for_each(heads_, [&](int64_t tile, int64_t head) {
      const HeadRows<const T> q_rows = reader.read(q_, tile, head);
      Base::pack_columns(q_rows, queries.q_columns.at(tile, head));
      Base::pack_streamed_rows(q_rows, queries.q_rows.at(tile, head));
      const HeadRows<const T> dy_rows = reader.read(dy_, tile, head);
      Base::pack_columns(dy_rows, queries.dy_columns.at(tile, head));
      Base::pack_streamed_rows(dy_rows, queries.dy_rows.at(tile, head));
    });
    const HeadsView<T> dk_view(dk), dv_view(dv);
    const auto key_tiles = ropewalk::key_tiles(spans_, visibility_, dk.dim(0), dk.dim(1));
    const auto n = static_cast<int64_t>(key_tiles.size());
    parallel_for(n * kv_heads_, [&](int64_t i) { key_gradients(key_tiles[static_cast<size_t>(i % n)], i / n, queries, dk_view, dv_view); });
  }

 private:
  // What streams past fixed queries, and past fixed keys.
  struct KeyOperands {
    const TokenTiles& tiles;
    PackedTiles<P> k_columns, v_columns, k_rows;
  };
  struct QueryOperands {
    const TokenTiles& tiles;
    PackedTiles<P> q_columns, q_rows, dy_columns, dy_rows;
  };

  // delta = <dy, y> = sum over keys of p * dp: what the softmax's normalisation takes off every slope.
  void find_delta(const HeadsView<const T>& y) const {
    Base::for_each_query_tile([&](const QueryTile& queries, int64_t head) {
      const HeadRows<const T> dy_rows = dy_.rows(queries.tokens, head), y_rows = y.rows(queries.tokens, head);
      vectorized<row_dots<T, W>>(dy_rows.tokens, width_, dy_rows.data, dy_rows.stride, y_rows.data, y_rows.stride,
                                 delta_ + Base::statistic_at(queries.tokens, head));
    });
  }

  void query_gradient(const QueryTile& queries, int64_t head, const KeyOperands& keys, const HeadsView<T>& dq_view) const {
    const int64_t rows = queries.tokens.length, kv_head = head / group_, statistics = Base::statistic_at(queries.tokens, head);
    [[maybe_unused]] const typename P::Session session;
    Element *const q = fixed_room_.mine(), *const dy = second_fixed_room_.mine(), *const factor = factor_room_.mine();
    W *const scores = scores_.mine(), *const slopes = slopes_.mine(), *const dq = sums_.mine();
    std::fill_n(dq, rows * width_, W(0));
    Base::pack_rows(q_.rows(queries.tokens, head), q);
    Base::pack_rows(dy_.rows(queries.tokens, head), dy);
    Base::for_each_visible_tile(queries, keys.tiles, [&](int64_t tile, int64_t columns, const Band& band) {
      Base::score(rows, columns, q, keys.k_columns.at(tile, kv_head), scores);
      Base::score(rows, columns, dy, keys.v_columns.at(tile, kv_head), slopes);
      vectorized<score_tile::slopes_of_queries<W>>(rows, scale_, lse_ + statistics, delta_ + statistics, scores, slopes);
      score_tile::fill_outside(rows, band, W(0), slopes);
      Base::add_product(rows, columns, slopes, keys.k_rows.at(tile, kv_head), factor, dq);
    });
    store_scaled(dq, scale_, dq_view.rows(queries.tokens, head));
  }

  // Also where nobody reads the tile: then the gradients are 0.
  void key_gradients(const KeyTile& tile, int64_t kv_head, const QueryOperands& queries, const HeadsView<T>& dk_view,
                     const HeadsView<T>& dv_view) const {
    [[maybe_unused]] const typename P::Session session;
    W *const dk = sums_.mine(), *const dv = second_sums_.mine();
    std::fill_n(dk, tile.length * width_, W(0));
    std::fill_n(dv, tile.length * width_, W(0));
    for (const KeyUse& use : tile.uses) {
      const int64_t offset = (use.keys.begin - tile.begin) * width_;
      add_key_gradients(use, kv_head, queries, dk + offset, dv + offset);
    }
    const TokenRange keys{tile.row, tile.begin, tile.length, 0};
    store_scaled(dk, scale_, dk_view.rows(keys, kv_head));
    store_scaled(dv, W(1), dv_view.rows(keys, kv_head));
  }

  void add_key_gradients(const KeyUse& use, int64_t kv_head, const QueryOperands& queries, W* dk, W* dv) const {
    Element *const k = fixed_room_.mine(), *const v = second_fixed_room_.mine();
    Base::pack_rows(k_.rows(use.keys, kv_head), k);
    Base::pack_rows(v_.rows(use.keys, kv_head), v);
    for (int64_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head)
      queries.tiles.for_each(visibility_.queries_of(use.keys, TokenRange::of(*use.run)),
                             [&](int64_t tile, const TokenRange& seen_by, int64_t at) {
                               const Band band = visibility_.band_of_keys(use.keys, seen_by, at);
                               add_tile(use.keys.length, band, k, v, queries, tile, head, dk, dv);
                             });
  }

  void add_tile(int64_t rows, const Band& band, const Element* k, const Element* v, const QueryOperands& queries, int64_t tile,
                int64_t head, W* dk, W* dv) const {
    const TokenRange tokens = queries.tiles.tokens_of(tile);
    const int64_t columns = tokens.length, statistics = Base::statistic_at(tokens, head);
    Element* const factor = factor_room_.mine();
    W *const scores = scores_.mine(), *const slopes = slopes_.mine();
    W lse[kTile] = {}, delta[kTile] = {};  // copies, because the tensors' rows may end inside a vector
    std::copy_n(lse_ + statistics, columns, lse);
    std::copy_n(delta_ + statistics, columns, delta);
    Base::score(rows, columns, k, queries.q_columns.at(tile, head), scores);
    Base::score(rows, columns, v, queries.dy_columns.at(tile, head), slopes);
    vectorized<score_tile::slopes_of_keys<W>>(rows, scale_, lse, delta, scores, slopes);
    score_tile::fill_outside(rows, band, W(0), scores);
    score_tile::fill_outside(rows, band, W(0), slopes);
    Base::add_product(rows, columns, scores, queries.dy_rows.at(tile, head), factor, dv);
    Base::add_product(rows, columns, slopes, queries.q_rows.at(tile, head), factor, dk);
  }

  void store_scaled(const W* from, W scale, const HeadRows<T>& to) const {
    W factors[kTile];
    std::fill_n(factors, kTile, scale);
    vectorized<store_rows<T, W>>(to.tokens, width_, factors, from, to.data, to.stride);
  }

  HeadsView<const T> dy_;
  const W* lse_;
  Tensor delta_tensor_;
  W* delta_;
  ThreadScratch<Element> fixed_room_, second_fixed_room_, factor_room_;
  ThreadScratch<W> scores_, slopes_, sums_, second_sums_;
};

}  // namespace

void launch(Cpu, const AttentionForward& args) {
  dispatch_float(args.q.dtype(), [&]<class T>(std::type_identity<T>) {
    if (are_few(args)) return FewQueries<T>(args).run();
    with_panels<T>(false, [&]<class P>(P) { ForwardPass<T, P>(args).run(); });
  });
}

void launch(Cpu, const AttentionBackward& args) {
  dispatch_float(args.q.dtype(), [&]<class T>(std::type_identity<T>) {
    with_panels<T>(false, [&]<class P>(P) {
      const BackwardPass<T, P> pass(args);
      if (args.dq) pass.find_query_gradients(args.k, args.dq);
      if (args.dk) pass.find_key_gradients(args.q, args.dk, args.dv);
    });
  });
}

}  // namespace ropewalk
