// Attention of a few queries to many keys, as in decoding: keys and values are read where they lie, since laying them out for products
// would cost more than the products.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/heads.h"
#include "kernels/attention/results.h"
#include "kernels/attention/score_tile.h"
#include "kernels/tensor/math.h"

namespace ropewalk {

// Laying out in three planes pays later than in one.
template <class T>
bool are_few(const AttentionForward& args) {
  return args.q.dim(1) <= (std::is_same_v<T, bfloat16> ? 1 : 4);
}

// score [n] = scale * <q, k> for rows k [n, width]; returns the largest of them and `largest`.
template <class T, class W>
W score_keys(int64_t n, int64_t width, W scale, const W* q, const T* k, int64_t stride, W largest, W* score) {
  constexpr int64_t kLanes = score_tile::kLanes<W>;
  for (int64_t j = 0; j < n; ++j, k += stride) {
    W lanes[kLanes] = {};
    int64_t p = 0;
    for (; p + kLanes <= width; p += kLanes) {
#pragma omp simd simdlen(kLanes)
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += q[p + l] * static_cast<W>(k[p + l]);
    }
    for (int64_t l = 0; p < width; ++p, ++l) lanes[l] += q[p] * static_cast<W>(k[p]);
    score[j] = scale * score_tile::folded(lanes, [](W x, W y) { return x + y; });
    largest = std::max(largest, score[j]);
  }
  return largest;
}

// Scores become exp(score - largest); returns their sum.
template <class W>
W exponentials(int64_t n, W largest, W* score) {
  W sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    score[j] = exp_below(score[j] - largest);
    sum += score[j];
  }
  return sum;
}

// y [width] += sum_j p_j v_j, in blocks of columns whose sums stay in registers.
template <int kColumns, class T, class W>
[[gnu::always_inline]] inline void add_columns(int64_t n, int64_t width, const W* p, const T* v, int64_t stride, W* y) {
  int64_t at = 0;
  for (; at + kColumns <= width; at += kColumns) {
    W sum[kColumns] = {};
    for (int64_t j = 0; j < n; ++j) {
#pragma omp simd
      for (int i = 0; i < kColumns; ++i) sum[i] += p[j] * static_cast<W>(v[j * stride + at + i]);
    }
    for (int i = 0; i < kColumns; ++i) y[at + i] += sum[i];
  }
  if constexpr (kColumns > 1) add_columns<kColumns / 2>(n, width - at, p, v + at, stride, y + at);
}
template <class T, class W>
void add_values(int64_t n, int64_t width, const W* p, const T* v, int64_t stride, W* y) {
  add_columns<256 / sizeof(W)>(n, width, p, v, stride, y);
}

// A task is a head, whose keys stay in the cache from one query to the next.
template <class T>
class FewQueries {
  using W = Wide<T>;

 public:
  explicit FewQueries(const AttentionForward& args)
      : args_(args),
        q_(args.q),
        k_(args.k),
        v_(args.v),
        results_(args),
        visibility_{std::min(args.options.window.value_or(Visibility::kUnlimited), Visibility::kUnlimited)},
        heads_(args.q.dim(2)),
        width_(args.q.dim(3)),
        scores_(most_keys(args.spans)),
        sums_(width_),
        wide_q_(width_) {}

  void run() const {
    for (const QueryRun& run : args_.spans)
      parallel_for(heads_, [&](int64_t head) {
        for (int64_t i = 0; i < run.length; ++i) attend(run, TokenRange::of(run).piece(i, 1), head);
      });
  }

 private:
  static int64_t most_keys(const Spans& spans) {
    int64_t most = 0;
    for (const QueryRun& run : spans) {
      int64_t keys = 0;
      for (const KeyRun& key_run : run.keys) keys += key_run.length;
      most = std::max(most, keys);
    }
    return most;
  }

  // Calls body(keys, how many were there before) for the visible part of each run of keys.
  template <class Body>
  int64_t for_each_visible(const QueryRun& run, const TokenRange& query, const Body& body) const {
    int64_t before = 0;
    for (const KeyRun& key_run : run.keys) {
      const TokenRange keys = visibility_.keys_of(query, TokenRange::of(key_run));
      body(keys, before);
      before += keys.length;
    }
    return before;
  }

  void attend(const QueryRun& run, const TokenRange& query, int64_t head) const {
    const int64_t kv_head = head / (heads_ / args_.k.dim(2));
    W *const q = wide_q_.mine(), *const p = scores_.mine(), *const y = sums_.mine();
    std::copy_n(q_.rows(query, head).data, width_, q);
    W largest = std::numeric_limits<W>::lowest();
    const int64_t n = for_each_visible(run, query, [&](const TokenRange& keys, int64_t before) {
      const HeadRows<const T> k = k_.rows(keys, kv_head);
      largest =
          vectorized<score_keys<T, W>>(k.tokens, width_, static_cast<W>(args_.options.scale), q, k.data, k.stride, largest, p + before);
    });
    const W sum = vectorized<exponentials<W>>(n, largest, p);
    std::fill_n(y, width_, W(0));
    for_each_visible(run, query, [&](const TokenRange& keys, int64_t before) {
      const HeadRows<const T> v = v_.rows(keys, kv_head);
      vectorized<add_values<T, W>>(v.tokens, width_, p + before, v.data, v.stride, y);
    });
    results_.store(query, head, &largest, &sum, y);
  }

  const AttentionForward& args_;
  HeadsView<const T> q_, k_, v_;
  Results<T> results_;
  Visibility visibility_;
  int64_t heads_, width_;
  ThreadScratch<W> scores_, sums_, wide_q_;
};

}  // namespace ropewalk
