// Both passes hold one tile fixed and stream the other side past it: forward holds queries, backward keys. A tile of scores is
// (fixed rows) x (streamed columns). The fixed side is packed by the task that holds it; the streamed side once a launch, in tiles of the
// tensor's own tokens: what of a tile a run does not hold is hidden in the scores.
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

// Holds keys. The gradients of queries are summed on the way, since scores that are at hand need not be computed again for them: the keys
// that a query sees are all of one group, and a group's keys are gone through in order. Where there are too few groups and heads to keep
// threads busy, groups are cut into segments, each of which has sums of its own.
template <class T, class P>
class BackwardPass : Pass<T, P> {
  using Base = Pass<T, P>;
  using Base::q_, Base::k_, Base::v_, Base::spans_, Base::visibility_, Base::scale_, Base::group_, Base::heads_, Base::kv_heads_,
      Base::width_;
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
        groups_(key_groups(spans_, visibility_, args.k.dim(0), args.k.dim(1))),
        segments_(std::max<int64_t>(1, kTasks / std::max<int64_t>(1, static_cast<int64_t>(groups_.size()) * kv_heads_))),
        tiles_(tiles_of_queries(spans_, args.q.dim(0), args.q.dim(1))),
        q_columns_(Base::tiles_as_columns(tiles_, heads_)),
        q_rows_(Base::tiles_as_rows(tiles_, heads_)),
        dy_columns_(Base::tiles_as_columns(tiles_, heads_)),
        dy_rows_(Base::tiles_as_rows(tiles_, heads_)),
        dq_size_(tiles_.count() * heads_ * kTile * width_),
        dq_sums_(Tensor::empty({args.dq ? segments_ * dq_size_ : 0}, dtype_of<W>())),
        k_room_(P::left_size(kTile, width_)),
        k_rows_room_(P::right_size(kTile, width_)),
        v_room_(P::left_size(kTile, width_)),
        factor_room_(P::left_size(kTile, kTile)),
        scores_(kTile * kTile),
        slopes_(kTile * kTile),
        dk_sums_(kTile * width_),
        dv_sums_(kTile * width_) {}

  void run() const {
    prepare_queries();
    const auto n = static_cast<int64_t>(groups_.size());
    parallel_for(segments_ * n * kv_heads_, [&](int64_t i) {
      const std::vector<KeyTile>& tiles = groups_[static_cast<size_t>(i % n)];
      const int64_t kv_head = i / n % kv_heads_, segment = i / n / kv_heads_, count = static_cast<int64_t>(tiles.size());
      for (int64_t t = segment * count / segments_; t < (segment + 1) * count / segments_; ++t)
        key_gradients(tiles[static_cast<size_t>(t)], kv_head, segment);
    });
    if (args_.dq) store_query_gradients();
  }

 private:
  static constexpr int64_t kTasks = 32;  // as many at least, if there are tiles enough

  void prepare_queries() const {
    const TileReader<T> reader(tiles_, width_);
    reader.for_each(heads_, [&](int64_t tile, int64_t head) {
      const HeadRows<const T> q_rows = reader.read(q_, tile, head);
      Base::pack_columns(q_rows, q_columns_.at(tile, head));
      Base::pack_streamed_rows(q_rows, q_rows_.at(tile, head));
      const HeadRows<const T> dy_rows = reader.read(dy_, tile, head);
      Base::pack_columns(dy_rows, dy_columns_.at(tile, head));
      Base::pack_streamed_rows(dy_rows, dy_rows_.at(tile, head));
      find_delta(tile, head, dy_rows);
      for (int64_t segment = 0; args_.dq && segment < segments_; ++segment) std::fill_n(dq_sums(segment, tile, head), kTile * width_, W(0));
    });
  }

  // delta = <dy, y> = sum over keys of p * dp: what the softmax's normalisation takes off every slope.
  void find_delta(int64_t tile, int64_t head, const HeadRows<const T>& dy) const {
    const TokenRange tokens = tiles_.tokens_of(tile);
    const HeadRows<const T> y = y_.rows(tokens, head);
    vectorized<row_dots<T, W>>(y.tokens, width_, dy.data, dy.stride, y.data, y.stride, delta_ + Base::statistic_at(tokens, head));
  }

  // Also where nobody reads the tile: then the gradients are 0.
  void key_gradients(const KeyTile& tile, int64_t kv_head, int64_t segment) const {
    [[maybe_unused]] const typename P::Session session;
    W *const dk = dk_sums_.mine(), *const dv = dv_sums_.mine();
    std::fill_n(dk, tile.length * width_, W(0));
    std::fill_n(dv, tile.length * width_, W(0));
    for (const KeyUse& use : tile.uses) {
      const int64_t offset = (use.keys.begin - tile.begin) * width_;
      add_use(use, kv_head, segment, dk + offset, dv + offset);
    }
    if (!args_.dk) return;
    const TokenRange keys{tile.row, tile.begin, tile.length, 0};
    store_scaled(dk, scale_, HeadsView<T>(args_.dk).rows(keys, kv_head));
    store_scaled(dv, W(1), HeadsView<T>(args_.dv).rows(keys, kv_head));
  }

  void add_use(const KeyUse& use, int64_t kv_head, int64_t segment, W* dk, W* dv) const {
    const HeadRows<const T> k_rows = k_.rows(use.keys, kv_head);
    Base::pack_rows(k_rows, k_room_.mine());
    Base::pack_streamed_rows(k_rows, k_rows_room_.mine());
    Base::pack_rows(v_.rows(use.keys, kv_head), v_room_.mine());
    for (int64_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head)
      tiles_.for_each(visibility_.queries_of(use.keys, TokenRange::of(*use.run)), [&](int64_t tile, const TokenRange& seen_by, int64_t at) {
        find_slopes(use.keys.length, visibility_.band_of_keys(use.keys, seen_by, at), tile, head);
        add_tile(use.keys.length, tile, head, dk, dv, args_.dq ? dq_sums(segment, tile, head) : nullptr);
      });
  }

  // The scores and slopes of the keys held, [keys, queries of the tile].
  void find_slopes(int64_t rows, const Band& band, int64_t tile, int64_t head) const {
    const TokenRange tokens = tiles_.tokens_of(tile);
    const int64_t columns = tokens.length, statistics = Base::statistic_at(tokens, head);
    W *const scores = scores_.mine(), *const slopes = slopes_.mine();
    W lse[kTile] = {}, delta[kTile] = {};  // copies, because the tensors' rows may end inside a vector
    std::copy_n(lse_ + statistics, columns, lse);
    std::copy_n(delta_ + statistics, columns, delta);
    P::multiply(rows, columns, width_, k_room_.mine(), q_columns_.at(tile, head), scores, kTile);
    P::multiply(rows, columns, width_, v_room_.mine(), dy_columns_.at(tile, head), slopes, kTile);
    vectorized<score_tile::slopes_of_keys<W>>(rows, scale_, lse, delta, scores, slopes);
    score_tile::fill_outside(rows, band, W(0), scores);
    score_tile::fill_outside(rows, band, W(0), slopes);
  }

  void add_tile(int64_t rows, int64_t tile, int64_t head, W* dk, W* dv, W* dq) const {
    const int64_t columns = tiles_.tokens_of(tile).length;
    Element* const factor = factor_room_.mine();
    const W *const scores = scores_.mine(), *const slopes = slopes_.mine();
    if (args_.dk) {
      P::left(rows, columns, scores, kTile, factor);
      P::add(rows, width_, columns, factor, dy_rows_.at(tile, head), dv, width_);
      P::left(rows, columns, slopes, kTile, factor);
      P::add(rows, width_, columns, factor, q_rows_.at(tile, head), dk, width_);
    }
    if (dq) {
      P::left_transposed(columns, rows, slopes, kTile, factor);
      P::add(columns, width_, rows, factor, k_rows_room_.mine(), dq, width_);
    }
  }

  W* dq_sums(int64_t segment, int64_t tile, int64_t head) const {
    return dq_sums_.data<W>() + segment * dq_size_ + (head * tiles_.count() + tile) * kTile * width_;
  }

  void store_query_gradients() const {
    const HeadsView<T> dq(args_.dq);
    Base::for_each_query_tile([&](const QueryTile& queries, int64_t head) {
      tiles_.for_each(queries.tokens, [&](int64_t tile, const TokenRange& tokens, int64_t at) {
        W* const sums = dq_sums(0, tile, head) + at * width_;
        for (int64_t segment = 1; segment < segments_; ++segment) {
          const W* const more = dq_sums(segment, tile, head) + at * width_;
          for (int64_t i = 0; i < tokens.length * width_; ++i) sums[i] += more[i];
        }
        store_scaled(sums, scale_, dq.rows(tokens, head));
      });
    });
  }

  void store_scaled(const W* from, W scale, const HeadRows<T>& to) const {
    W factors[kTile];
    std::fill_n(factors, kTile, scale);
    vectorized<store_rows<T, W>>(to.tokens, width_, factors, from, to.data, to.stride);
  }

  const AttentionBackward& args_;
  HeadsView<const T> dy_, y_;
  const W* lse_;
  Tensor delta_tensor_;
  W* delta_;
  std::vector<std::vector<KeyTile>> groups_;
  int64_t segments_;
  TokenTiles tiles_;
  PackedTiles<P> q_columns_, q_rows_, dy_columns_, dy_rows_;
  int64_t dq_size_;
  Tensor dq_sums_;
  ThreadScratch<Element> k_room_, k_rows_room_, v_room_, factor_room_;
  ThreadScratch<W> scores_, slopes_, dk_sums_, dv_sums_;
};

}  // namespace

void launch(Cpu, const AttentionForward& args) {
  dispatch_float(args.q.dtype(), [&]<class T>(std::type_identity<T>) {
    if (are_few(args)) return FewQueries<T>(args).run();
    with_panels<T>(false, [&]<class P>(P) { ForwardPass<T, P>(args).run(); });
  });
}

void launch(Cpu, const AttentionBackward& args) {
  dispatch_float(args.q.dtype(),
                 [&]<class T>(std::type_identity<T>) { with_panels<T>(false, [&]<class P>(P) { BackwardPass<T, P>(args).run(); }); });
}

}  // namespace ropewalk
