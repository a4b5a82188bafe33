// What attention finds for its queries: stored, or merged with what it found over other keys.
#pragma once

#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/attention/heads.h"
#include "kernels/attention/score_tile.h"

namespace ropewalk {

// Of a softmax over two sets of keys.
template <class W>
struct Shares {
  W before, now;
};
// From the log-sum-exps over both; lse becomes that over all of them. +infinity: no keys.
template <class W>
Shares<W> merge_log_sums(W& lse, W found) {
  if (found == score_tile::kInfinity<W>) return {1, 0};
  if (lse == score_tile::kInfinity<W>) {
    lse = found;
    return {0, 1};
  }
  const W larger = std::max(lse, found), before = std::exp(lse - larger), now = std::exp(found - larger), both = before + now;
  lse = larger + std::log(both);
  return {before / both, now / both};
}

template <class T>
class Results {
  using W = Wide<T>;

 public:
  explicit Results(const AttentionForward& args)
      : args_(args), lse_(args.lse.data<W>()), heads_(args.q.dim(2)), tokens_(args.q.dim(1)), width_(args.q.dim(3)) {}

  void prefetch(const TokenRange& queries, int64_t head) const {
    with_rows<T>(args_.y, queries, head, [&](const auto& rows) { prefetch_rows(width_, rows); });
  }

  // Of at most kTile queries: e^(score - top) came to `sums`, and the values times it to y [queries, width]. A sum is 0 where a query sees
  // no key: its y is 0 then.
  void store(const TokenRange& queries, int64_t head, const W* top, const W* sums, const W* y) const {
    W found[kTile], factors[kTile];
    for (int64_t i = 0; i < queries.length; ++i) {
      found[i] = sums[i] == 0 ? score_tile::kInfinity<W> : top[i] + std::log(sums[i]);
      factors[i] = sums[i] == 0 ? W(0) : 1 / sums[i];
    }
    W* const lse = lse_ + (queries.row * heads_ + head) * tokens_ + queries.begin;
    if (args_.merge) return merge(queries, head, found, factors, y, lse);
    std::copy_n(found, queries.length, lse);
    with_rows<T>(args_.y, queries, head, [&]<class Y>(const HeadRows<Y>& to) {
      vectorized<store_rows<Y, W>>(queries.length, width_, factors, y, to.data, to.stride);
    });
  }

 private:
  void merge(const TokenRange& queries, int64_t head, const W* found, W* factors, const W* y, W* lse) const {
    W kept[kTile];
    for (int64_t i = 0; i < queries.length; ++i) {
      const Shares<W> shares = merge_log_sums(lse[i], found[i]);
      kept[i] = shares.before;
      factors[i] *= shares.now;
    }
    const HeadRows<W> to = HeadsView<W>(args_.y).rows(queries, head);
    vectorized<add_rows<W>>(queries.length, width_, kept, factors, y, to.data, to.stride);
  }

  const AttentionForward& args_;
  W* lse_;
  int64_t heads_, tokens_, width_;
};

}  // namespace ropewalk
