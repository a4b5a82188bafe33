// Every pass holds one tile fixed and streams the other side past it: forward and dq hold queries, dk and dv hold keys. The fixed side
// is kept transposed, so a tile of scores, (streamed rows) x (fixed columns), is one plain product and its columns lie along the vectors.
// A tile of queries packs the heads that share a kv head: its rows are (token, head of the group).
#include <cmath>
#include <cstddef>
#include <deque>

#include "kernels/attention/attention.h"
#include "kernels/attention/score_tile.h"
#include "kernels/matmul/products.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk {
namespace {

using tile::Matrix;

constexpr int64_t kQueryRows = 64, kKeys = 64;  // a tile of scores is 16 KiB in fp32

// The columns of a tile of scores are padded to whole vectors.
int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Working memory of this thread, on cache lines. A task's n-th piece is the one that the n-th piece of the task before it was.
class Scratch {
 public:
  template <class W>
  W* take(int64_t elements) {
    struct alignas(64) Line {
      std::byte bytes[64];
    };
    thread_local std::deque<std::vector<Line>> pieces;
    if (next_ == pieces.size()) pieces.emplace_back();
    std::vector<Line>& piece = pieces[next_++];
    const size_t lines = static_cast<size_t>(elements) * sizeof(W) / sizeof(Line) + 1;
    if (piece.size() < lines) piece.resize(lines);
    return reinterpret_cast<W*>(piece.data());
  }
  template <class W>
  W* take(int64_t elements, W value) {
    W* piece = take<W>(elements);
    std::fill(piece, piece + elements, value);
    return piece;
  }

 private:
  size_t next_ = 0;
};

// The (token, head) rows of a part of [B, S, H, P].
template <class T>
struct HeadRows {
  T* data;
  int64_t tokens, heads, width, token_stride, head_stride;
  int64_t count() const { return tokens * heads; }
  T* at(int64_t token, int64_t head) const { return data + token * token_stride + head * head_stride; }
};

// A view [B, S, H, P] whose last dim is dense.
template <class T>
class HeadsView {
 public:
  explicit HeadsView(const Tensor& x)
      : data_(x.data<std::remove_const_t<T>>()), row_(x.stride(0)), token_(x.stride(1)), head_(x.stride(2)), width_(x.dim(3)) {}
  HeadRows<T> rows(const TokenRange& tokens, int64_t first_head, int64_t heads = 1) const {
    return {data_ + tokens.row * row_ + tokens.begin * token_ + first_head * head_, tokens.length, heads, width_, token_, head_};
  }

 private:
  T* data_;
  int64_t row_, token_, head_, width_;
};

// to [rows, P] = scale * from.
template <class T, class W>
void load(HeadRows<const T> from, W scale, W* to) {
  for (int64_t t = 0; t < from.tokens; ++t)
    for (int64_t h = 0; h < from.heads; ++h, to += from.width) {
      const T* row = from.at(t, h);
      for (int64_t p = 0; p < from.width; ++p) to[p] = scale * static_cast<W>(row[p]);
    }
}

// to = scale * from [rows, P].
template <class T, class W>
void store(const W* from, W scale, HeadRows<T> to) {
  for (int64_t t = 0; t < to.tokens; ++t)
    for (int64_t h = 0; h < to.heads; ++h, from += to.width) {
      T* row = to.at(t, h);
      for (int64_t p = 0; p < to.width; ++p) row[p] = static_cast<T>(scale * from[p]);
    }
}

// Returns (scale * from)^T [P, columns], with zeros in the padding.
template <class T, class W>
W* load_transposed(HeadRows<const T> from, W scale, int64_t columns, Scratch& scratch) {
  W* rows = scratch.take<W>(from.count() * from.width);
  W* transposed = scratch.take<W>(from.width * columns, W(0));
  vectorized<load<T, W>>(from, scale, rows);
  tile::transpose(from.count(), from.width, rows, from.width, transposed, columns);
  return transposed;
}

// scores [rows, columns] = streamed [rows, P] * fixed [P, columns].
template <class T, class W>
void multiply(tile::Products<T>& products, int64_t rows, int64_t columns, int64_t width, const W* streamed, const W* fixed, W* scores) {
  products.multiply(rows, columns, width, {streamed, width}, fixed, columns, scores, columns);
}

// sums [columns, P] += factors^T * rows, where factors are the first columns of [n, stride], and rows [n, P].
template <class T, class W>
void add_transposed(tile::Products<T>& products, int64_t n, int64_t columns, int64_t stride, int64_t width, const W* factors, const W* rows,
                    W* sums) {
  products.add(columns, width, n, Matrix<W>{factors, stride}.transposed(), rows, width, sums, width);
}

// rows [n, width] *= factor [n].
template <class W>
void scale_rows(int64_t n, int64_t width, const W* factor, W* rows) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t p = 0; p < width; ++p) rows[i * width + p] *= factor[i];
}

// to [H, tokens] = <x, y> of each row.
template <class T, class W>
void row_dots(HeadRows<const T> x, HeadRows<const T> y, W* to, int64_t head_stride) {
  for (int64_t t = 0; t < x.tokens; ++t)
    for (int64_t h = 0; h < x.heads; ++h) {
      const T *x_row = x.at(t, h), *y_row = y.at(t, h);
      W sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t p = 0; p < x.width; ++p) sum += static_cast<W>(x_row[p]) * static_cast<W>(y_row[p]);
      to[h * head_stride + t] = sum;
    }
}

// What all passes share.
template <class T>
class Pass {
 protected:
  using W = Wide<T>;

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

  int64_t tile_tokens() const { return std::max<int64_t>(1, kQueryRows / group_); }

  // Calls body(tile, kv head) for all tiles of queries. The last tiles of a run, which see most keys, start first.
  template <class Body>
  void for_each_query_tile(const Body& body) const {
    const auto tiles = query_tiles(spans_, tile_tokens());
    const auto n = static_cast<int64_t>(tiles.size());
    parallel_for(n * kv_heads_, [&](int64_t i) { body(tiles[static_cast<size_t>(n - 1 - i % n)], i / n); });
  }

  template <class Body>
  void for_each_visible_tile(const QueryTile& queries, const Body& body) const {
    for (const KeyRun& run : queries.run->keys) for_each_tile(visibility_.keys_of(queries.tokens, TokenRange::of(run)), kKeys, body);
  }

  template <class U>
  HeadRows<U> group_rows(const HeadsView<U>& x, const TokenRange& queries, int64_t kv_head) const {
    return x.rows(queries, kv_head * group_, group_);
  }

  // Where the statistic of a row of a query tile stands in [B, H, S].
  int64_t statistic_at(const TokenRange& queries, int64_t kv_head, int64_t row) const {
    return (queries.row * heads_ + kv_head * group_ + row % group_) * tokens_ + queries.begin + row / group_;
  }

  const Spans& spans_;
  HeadsView<const T> q_, k_, v_;
  Visibility visibility_;
  W scale_;
  int64_t tokens_, heads_, kv_heads_, group_, width_;
};

template <class T>
class ForwardPass : Pass<T> {
  using Base = Pass<T>;
  using Base::for_each_query_tile, Base::for_each_visible_tile, Base::group_rows, Base::statistic_at;
  using Base::q_, Base::k_, Base::v_, Base::visibility_, Base::scale_, Base::group_, Base::width_;
  using typename Base::W;

 public:
  explicit ForwardPass(const AttentionForward& args) : Base(args), y_(args.y), lse_(args.lse.data<W>()) {}

  void run() const {
    for_each_query_tile([&](const QueryTile& queries, int64_t kv_head) { attend(queries, kv_head); });
  }

 private:
  void attend(const QueryTile& queries, int64_t kv_head) const {
    const int64_t rows = queries.tokens.length * group_, columns = padded(rows);
    Scratch scratch;
    tile::Products<T> products;
    const W* q = load_transposed(group_rows(q_, queries.tokens, kv_head), scale_, columns, scratch);
    W *k = scratch.take<W>(kKeys * width_), *v = scratch.take<W>(kKeys * width_), *scores = scratch.take<W>(kKeys * columns);
    W *y = scratch.take<W>(rows * width_, W(0)), *sum = scratch.take<W>(columns, W(0)), *decay = scratch.take<W>(columns);
    W* top = scratch.take<W>(columns, -score_tile::kInfinity<W>);
    for_each_visible_tile(queries, [&](const TokenRange& keys) {
      vectorized<load<T, W>>(k_.rows(keys, kv_head), W(1), k);
      vectorized<load<T, W>>(v_.rows(keys, kv_head), W(1), v);
      multiply(products, keys.length, columns, width_, k, q, scores);
      score_tile::mask_by_key(visibility_, queries.tokens, keys, group_, columns, scores);
      vectorized<score_tile::softmax_step<W>>(keys.length, columns, scores, top, sum, decay);
      vectorized<scale_rows<W>>(rows, width_, decay, y);
      add_transposed(products, keys.length, rows, columns, width_, scores, v, y);
    });
    finish(queries.tokens, kv_head, top, sum, y);
  }

  // The sum is 0 where a token sees no key: its y stays 0.
  void finish(const TokenRange& queries, int64_t kv_head, const W* top, W* sum, W* y) const {
    const int64_t rows = queries.length * group_;
    for (int64_t i = 0; i < rows; ++i) {
      lse_[statistic_at(queries, kv_head, i)] = sum[i] == 0 ? score_tile::kInfinity<W> : top[i] + std::log(sum[i]);
      sum[i] = sum[i] == 0 ? W(0) : 1 / sum[i];
    }
    vectorized<scale_rows<W>>(rows, width_, sum, y);
    vectorized<store<T, W>>(y, W(1), group_rows(y_, queries, kv_head));
  }

  HeadsView<T> y_;
  W* lse_;
};

template <class T>
class BackwardPass : Pass<T> {
  using Base = Pass<T>;
  using Base::for_each_query_tile, Base::for_each_visible_tile, Base::group_rows, Base::statistic_at, Base::tile_tokens;
  using Base::q_, Base::k_, Base::v_, Base::visibility_, Base::scale_, Base::tokens_, Base::heads_, Base::kv_heads_, Base::group_,
      Base::width_;
  using typename Base::W;

 public:
  explicit BackwardPass(const AttentionBackward& args)
      : Base(args), dy_(args.dy), lse_(args.lse.data<W>()), delta_tensor_(empty_like(args.lse)), delta_(delta_tensor_.data<W>()) {
    find_delta(HeadsView<const T>(args.y), args.dy.dim(0));
  }

  void find_query_gradients(const Tensor& dq) const {
    const HeadsView<T> dq_view(dq);
    for_each_query_tile([&](const QueryTile& queries, int64_t kv_head) { query_gradient(queries, kv_head, dq_view); });
  }

  void find_key_gradients(const Tensor& dk, const Tensor& dv) const {
    const HeadsView<T> dk_view(dk), dv_view(dv);
    const auto tiles = key_tiles(Base::spans_, visibility_, dk.dim(0), dk.dim(1), kKeys);
    const auto n = static_cast<int64_t>(tiles.size());
    parallel_for(n * kv_heads_, [&](int64_t i) { key_gradients(tiles[static_cast<size_t>(i % n)], i / n, dk_view, dv_view); });
  }

 private:
  // delta = <dy, y> = sum over keys of p * dp: what the softmax's normalisation takes off every slope.
  void find_delta(const HeadsView<const T>& y, int64_t batch) const {
    const int64_t tiles = (tokens_ + kQueryRows - 1) / kQueryRows;
    parallel_for(batch * tiles, [&](int64_t i) {
      const int64_t begin = i % tiles * kQueryRows;
      const TokenRange tokens{i / tiles, begin, std::min(kQueryRows, tokens_ - begin), begin};
      vectorized<row_dots<T, W>>(dy_.rows(tokens, 0, heads_), y.rows(tokens, 0, heads_), delta_ + statistic_at(tokens, 0, 0), tokens_);
    });
  }

  void load_statistics(const W* statistics, const TokenRange& queries, int64_t kv_head, W* to) const {
    for (int64_t i = 0; i < queries.length * group_; ++i) to[i] = statistics[statistic_at(queries, kv_head, i)];
  }

  void query_gradient(const QueryTile& queries, int64_t kv_head, const HeadsView<T>& dq_view) const {
    const int64_t rows = queries.tokens.length * group_, columns = padded(rows);
    Scratch scratch;
    tile::Products<T> products;
    const W* q = load_transposed(group_rows(q_, queries.tokens, kv_head), scale_, columns, scratch);
    const W* dy = load_transposed(group_rows(dy_, queries.tokens, kv_head), W(1), columns, scratch);
    W *k = scratch.take<W>(kKeys * width_), *v = scratch.take<W>(kKeys * width_);
    W *scores = scratch.take<W>(kKeys * columns), *slopes = scratch.take<W>(kKeys * columns), *dq = scratch.take<W>(rows * width_, W(0));
    W *lse = scratch.take<W>(columns, W(0)), *delta = scratch.take<W>(columns, W(0));
    load_statistics(lse_, queries.tokens, kv_head, lse);
    load_statistics(delta_, queries.tokens, kv_head, delta);
    for_each_visible_tile(queries, [&](const TokenRange& keys) {
      vectorized<load<T, W>>(k_.rows(keys, kv_head), W(1), k);
      vectorized<load<T, W>>(v_.rows(keys, kv_head), W(1), v);
      multiply(products, keys.length, columns, width_, k, q, scores);
      multiply(products, keys.length, columns, width_, v, dy, slopes);
      score_tile::mask_by_key(visibility_, queries.tokens, keys, group_, columns, scores);
      vectorized<score_tile::slopes_by_column<W>>(keys.length, columns, lse, delta, scores, slopes);
      add_transposed(products, keys.length, rows, columns, width_, slopes, k, dq);
    });
    vectorized<store<T, W>>(dq, scale_, group_rows(dq_view, queries.tokens, kv_head));
  }

  // Also where nobody reads the tile: then the gradients are 0.
  void key_gradients(const KeyTile& tile, int64_t kv_head, const HeadsView<T>& dk_view, const HeadsView<T>& dv_view) const {
    Scratch scratch;
    W *dk = scratch.take<W>(tile.length * width_, W(0)), *dv = scratch.take<W>(tile.length * width_, W(0));
    for (const KeyUse& use : tile.uses) {
      const int64_t offset = (use.keys.begin - tile.begin) * width_;
      add_key_gradients(use, kv_head, dk + offset, dv + offset, scratch);
    }
    const TokenRange keys{tile.row, tile.begin, tile.length, 0};
    vectorized<store<T, W>>(dk, W(1), dk_view.rows(keys, kv_head));
    vectorized<store<T, W>>(dv, W(1), dv_view.rows(keys, kv_head));
  }

  // Takes the scratch by value, so that the next use takes the same pieces again.
  void add_key_gradients(const KeyUse& use, int64_t kv_head, W* dk, W* dv, Scratch scratch) const {
    const int64_t columns = padded(use.keys.length), most_rows = tile_tokens() * group_;
    tile::Products<T> products;
    const W* k = load_transposed(k_.rows(use.keys, kv_head), W(1), columns, scratch);
    const W* v = load_transposed(v_.rows(use.keys, kv_head), W(1), columns, scratch);
    W *q = scratch.take<W>(most_rows * width_), *dy = scratch.take<W>(most_rows * width_);
    W *scores = scratch.take<W>(most_rows * columns), *slopes = scratch.take<W>(most_rows * columns);
    W *lse = scratch.take<W>(most_rows), *delta = scratch.take<W>(most_rows);
    for_each_tile(visibility_.queries_of(use.keys, TokenRange::of(*use.run)), tile_tokens(), [&](const TokenRange& queries) {
      const int64_t rows = queries.length * group_;
      vectorized<load<T, W>>(group_rows(q_, queries, kv_head), scale_, q);
      vectorized<load<T, W>>(group_rows(dy_, queries, kv_head), W(1), dy);
      load_statistics(lse_, queries, kv_head, lse);
      load_statistics(delta_, queries, kv_head, delta);
      multiply(products, rows, columns, width_, q, k, scores);
      multiply(products, rows, columns, width_, dy, v, slopes);
      score_tile::mask_by_query(visibility_, queries, use.keys, group_, columns, scores);
      vectorized<score_tile::slopes_by_row<W>>(rows, columns, lse, delta, scores, slopes);
      add_transposed(products, rows, use.keys.length, columns, width_, scores, dy, dv);
      add_transposed(products, rows, use.keys.length, columns, width_, slopes, q, dk);
    });
  }

  HeadsView<const T> dy_;
  const W* lse_;
  Tensor delta_tensor_;
  W* delta_;
};

}  // namespace

void launch(Cpu, const AttentionForward& args) {
  dispatch_float(args.q.dtype(), [&]<class T>(std::type_identity<T>) { ForwardPass<T>(args).run(); });
}

void launch(Cpu, const AttentionBackward& args) {
  dispatch_float(args.q.dtype(), [&]<class T>(std::type_identity<T>) {
    const BackwardPass<T> pass(args);
    if (args.dq) pass.find_query_gradients(args.dq);
    if (args.dk) pass.find_key_gradients(args.dk, args.dv);
  });
}

}  // namespace ropewalk
