// What attention does to a tile of scores, [rows, kTile] in the wide type, between the products: mask, online softmax, slopes. A tile
// always has kTile columns: beyond the tokens of a row they hold what they held before, and are hidden like the rest.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/attention/visibility.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk::score_tile {

template <class W>
constexpr W kInfinity = std::numeric_limits<W>::infinity();

// A cache line of W, as vectors of AVX-512 are. g++ takes shorter ones there if it is not told.
template <class W>
constexpr int64_t kLanes = 64 / sizeof(W);

// x = value outside of the band.
template <class W>
void fill_outside(int64_t rows, const Band& band, W value, W* x) {
  if (!band.hides_any(rows, kTile)) return;
  for (int64_t i = 0; i < rows; ++i) {
    W* const row = x + i * kTile;
    std::fill(row, row + std::min(band.first(i), kTile), value);
    std::fill(row + std::min(band.last(i), kTile), row + kTile, value);
  }
}

// Scores that a row does not see become -infinity. That is meant of scaled scores, so they are scaled here, where there are any such;
// returns the factor that is left to be applied.
template <class W>
W hide_outside(int64_t rows, const Band& band, W scale, W* scores) {
  if (!band.hides_any(rows, kTile)) return scale;
  for (int64_t i = 0; i < rows * kTile; ++i) scores[i] *= scale;
  fill_outside(rows, band, -kInfinity<W>, scores);
  return 1;
}

// A vector's lanes put together by halves: a reduction clause would go through them one by one.
template <class W, class Join>
[[gnu::always_inline]] inline W folded(const W (&lanes)[kLanes<W>], const Join& join) {
  W x[kLanes<W>];
  std::copy_n(lanes, kLanes<W>, x);
  for (int64_t half = kLanes<W> / 2; half > 0; half /= 2) {
#pragma omp simd
    for (int64_t l = 0; l < half; ++l) x[l] = join(x[l], x[l + half]);
  }
  return x[0];
}

// Raises top [rows] to the largest scaled score of its row, and finds decay [rows], what that takes off of sums made with the old top. A
// top that is passed by little stays: a probability of e^kSlack is as good as one of 1, and nothing decays.
template <class W>
[[gnu::always_inline]] inline void raise_top(int64_t rows, W scale, const W* scores, W* top, W* decay) {
  constexpr W kSlack = 8;
  for (int64_t i = 0; i < rows; ++i) {
    W lanes[kLanes<W>];
    std::fill_n(lanes, kLanes<W>, top[i]);
    for (int64_t j = 0; j < kTile; j += kLanes<W>) {
#pragma omp simd simdlen(kLanes <W>)
      for (int64_t l = 0; l < kLanes<W>; ++l) lanes[l] = std::max(lanes[l], scale * scores[i * kTile + j + l]);
    }
    const W largest = folded(lanes, [](W x, W y) { return std::max(x, y); });
    decay[i] = top[i];
    top[i] = largest > top[i] + kSlack ? largest : top[i];
  }
  for (int64_t i = 0; i < rows; ++i) decay[i] = exp_below(decay[i] - top[i]);
}

// One step of the online softmax. Scores become exp(scale * score - top), where top [rows] is about the largest scaled score so far, and
// sums [rows, kLanes], whose lanes are to be added in the end, follow. Whatever else was summed before top moved is to be multiplied with
// decay [rows]. top begins finite, so that hidden scores, -infinity, give 0 and never NaN.
template <class W>
void softmax_step(int64_t rows, W scale, W* scores, W* top, W* sums, W* decay) {
  raise_top(rows, scale, scores, top, decay);
  for (int64_t i = 0; i < rows; ++i) {
    W lanes[kLanes<W>];
    for (int64_t l = 0; l < kLanes<W>; ++l) lanes[l] = decay[i] * sums[i * kLanes<W> + l];
    for (int64_t j = 0; j < kTile; j += kLanes<W>) {
      W* const score = scores + i * kTile + j;
#pragma omp simd simdlen(kLanes <W>)
      for (int64_t l = 0; l < kLanes<W>; ++l) {
        score[l] = exp_below(scale * score[l] - top[i]);
        lanes[l] += score[l];
      }
    }
    for (int64_t l = 0; l < kLanes<W>; ++l) sums[i * kLanes<W> + l] = lanes[l];
  }
}

// rows [n, width] *= decay [n], most of which is 1.
template <class W>
void decay_rows(int64_t n, int64_t width, const W* decay, W* rows) {
  for (int64_t i = 0; i < n; ++i) {
    if (decay[i] == 1) continue;
    for (int64_t p = 0; p < width; ++p) rows[i * width + p] *= decay[i];
  }
}

// Scores become probabilities p = exp(scale * score - lse), and slopes, given as dp = d(loss)/dp, become
// d(loss)/d(scale * score) = p * (dp - delta). Queries are columns: lse and delta [kTile].
template <class W>
void find_slopes(int64_t rows, W scale, const W* lse, const W* delta, W* scores, W* slopes) {
  for (int64_t i = 0; i < rows; ++i) {
    W *const score = scores + i * kTile, *const slope = slopes + i * kTile;
#pragma omp simd simdlen(kLanes <W>)
    for (int64_t j = 0; j < kTile; ++j) {
      score[j] = exp_below(scale * score[j] - lse[j]);
      slope[j] = score[j] * (slope[j] - delta[j]);
    }
  }
}

}  // namespace ropewalk::score_tile
