// What attention does to a tile of scores, (streamed rows) x (fixed columns), dense: mask, online softmax, slopes.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/attention/visibility.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk::score_tile {

template <class W>
constexpr W kInfinity = std::numeric_limits<W>::infinity();

// Makes all of row[0, n) but [low, high) invisible.
template <class W>
void keep_between(W* row, int64_t n, int64_t low, int64_t high) {
  std::fill(row, row + std::clamp<int64_t>(low, 0, n), -kInfinity<W>);
  std::fill(row + std::clamp<int64_t>(high, 0, n), row + n, -kInfinity<W>);
}

// scores [keys, columns]; a column is a (token, head of the group).
template <class W>
void mask_by_key(const Visibility& visibility, const TokenRange& queries, const TokenRange& keys, int64_t group, int64_t columns,
                 W* scores) {
  if (visibility.all_meet(queries, keys)) return;
  for (int64_t j = 0; j < keys.length; ++j) {
    const int64_t first = keys.position + j - queries.position;
    keep_between(scores + j * columns, columns, first * group, (first + visibility.window) * group);
  }
}

// scores [(token, head of the group), columns]; a column is a key.
template <class W>
void mask_by_query(const Visibility& visibility, const TokenRange& queries, const TokenRange& keys, int64_t group, int64_t columns,
                   W* scores) {
  if (visibility.all_meet(queries, keys)) return;
  for (int64_t i = 0; i < queries.length * group; ++i) {
    const int64_t end = queries.position + i / group + 1 - keys.position;
    keep_between(scores + i * columns, columns, end - visibility.window, end);
  }
}

// One step of the online softmax, queries being columns: scores become exp(score - top), where top [columns] is the largest score so
// far; sum [columns] follows, and whatever else was summed before top moved is to be multiplied with decay [columns].
template <class W>
void softmax_step(int64_t rows, int64_t columns, W* scores, W* top, W* sum, W* decay) {
  for (int64_t i = 0; i < columns; ++i) decay[i] = top[i];
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t i = 0; i < columns; ++i) top[i] = std::max(top[i], scores[j * columns + i]);
  for (int64_t i = 0; i < columns; ++i) {
    decay[i] = top[i] == -kInfinity<W> ? W(0) : fast_exp(decay[i] - top[i]);
    sum[i] *= decay[i];
  }
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t i = 0; i < columns; ++i) {
      W& score = scores[j * columns + i];
      score = score == -kInfinity<W> ? W(0) : fast_exp(score - top[i]);
      sum[i] += score;
    }
}

// Scores become probabilities p = exp(score - lse), and slopes, given as dp = d(loss)/dp, become d(loss)/d(score) = p * (dp - delta).
template <class W>
inline void to_slope(W lse, W delta, W& score, W& slope) {
  score = fast_exp(score - lse);
  slope = score * (slope - delta);
}
// lse and delta [columns]: queries are columns.
template <class W>
void slopes_by_column(int64_t rows, int64_t columns, const W* lse, const W* delta, W* scores, W* slopes) {
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t i = 0; i < columns; ++i) to_slope(lse[i], delta[i], scores[j * columns + i], slopes[j * columns + i]);
}
// lse and delta [rows]: queries are rows.
template <class W>
void slopes_by_row(int64_t rows, int64_t columns, const W* lse, const W* delta, W* scores, W* slopes) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to_slope(lse[i], delta[i], scores[i * columns + j], slopes[i * columns + j]);
}

}  // namespace ropewalk::score_tile
