// The inner loops of SSD around its matrix products. W is float or double, T what an operand is stored as.
#pragma once

#include <algorithm>
#include <array>

#include "kernels/tensor/dtype.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk::ssd {

// Tokens. What two tokens of a chunk have to do with each other is worked out for pairs of blocks, the causal half of them; such a block
// [kBlock, kBlock] is dense.
constexpr int64_t kBlock = 32;
constexpr int kLanes = 16;

// The sum of lane[0, kCount), in halves: one after another they would wait for each other.
template <int kCount, class W>
[[gnu::always_inline]] inline W sum_of_lanes(W* lane) {
  if constexpr (kCount > 1) {
#pragma omp simd
    for (int s = 0; s < kCount / 2; ++s) lane[s] += lane[s + kCount / 2];
    return sum_of_lanes<kCount / 2>(lane);
  }
  return lane[0];
}

template <class X, class W>
[[gnu::always_inline]] inline W dot(int64_t n, const X* x, const W* y) {
  W lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) lane[s] += static_cast<W>(x[i + s]) * y[i + s];
  for (; i < n; ++i) lane[0] += static_cast<W>(x[i]) * y[i];
  return sum_of_lanes<kLanes>(lane);
}

// ---- steps

// x becomes softplus(x) between low and high; slope its derivative, which is zero where a limit holds it.
template <class W>
void softplus_row(int64_t n, W low, W high, W* x, W* slope) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const W raw = x[i], e = fast_exp(-std::abs(raw)), y = std::max(raw, W(0)) + fast_log1p(e);
    const W sigmoid = (raw < W(0) ? e : W(1)) / (W(1) + e), above_low = y > low ? sigmoid : W(0);
    slope[i] = y < high ? above_low : W(0);
    x[i] = std::min(std::max(y, low), high);
  }
}

// until_end[i] = exp(last - cum[i]), weight[i] = until_end[i] step[i]
template <class W>
void weights_until_end(int64_t n, double last, const double* cum, const W* step, W* until_end, W* weight) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    until_end[i] = fast_exp(static_cast<W>(last - cum[i]));
    weight[i] = until_end[i] * step[i];
  }
}

// to[i] = exp(cum[i])
template <class W>
void decay_since_start(int64_t n, const double* cum, W* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = fast_exp(static_cast<W>(cum[i]));
}

// The way back from a_i = rate step_i and the steps: d_step_i, what steps are owed elsewhere, becomes what they are owed before softplus.
template <class W>
void steps_backward_row(int64_t n, W rate, const W* d_a, const W* slope, W* d_step) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d_step[i] = (d_step[i] + rate * d_a[i]) * slope[i];
}

// ---- rows of a head

// to[i, :] = scale[i] from[i, :]
template <class T>
void scale_rows(int64_t rows, int64_t width, const Wide<T>* scale, const T* from, int64_t stride, Wide<T>* to) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = scale[i] * static_cast<Wide<T>>(from[i * stride + j]);
}

template <class T>
void store_rows(int64_t rows, int64_t width, const Wide<T>* from, T* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, from[i * width + j]);
}

// to[i, :] = sum[i, :] + factor x[i, :]
template <class T, class To>
void add_rows(int64_t rows, int64_t width, const Wide<T>* sum, Wide<T> factor, const T* x, int64_t x_stride, To* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, sum[i * width + j] + factor * static_cast<Wide<T>>(x[i * x_stride + j]));
}

// The same and scale[i] y[i, :].
template <class T, class To>
void add_scaled_rows(int64_t rows, int64_t width, const Wide<T>* sum, Wide<T> factor, const T* x, int64_t x_stride, const Wide<T>* scale,
                     const Wide<T>* y, To* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j)
      store(to + i * stride + j, sum[i * width + j] + factor * static_cast<Wide<T>>(x[i * x_stride + j]) + scale[i] * y[i * width + j]);
}

// to[i, :] = x[i, :] + scale[i] y[i, :]
template <class T>
void add_scaled_to_rows(int64_t rows, int64_t width, const Wide<T>* x, int64_t x_stride, const Wide<T>* scale, const Wide<T>* y, T* to,
                        int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, x[i * x_stride + j] + scale[i] * y[i * width + j]);
}

// The way back through weight_i v_i, whose gradient is d: dv_i = weight_i d_i, d_weight_i = <v_i, d_i>. Also makes weight_i v_i.
template <class T>
void weigh_rows_backward(int64_t rows, int64_t width, const Wide<T>* d, const Wide<T>* weight, const T* v, int64_t v_stride, T* dv,
                         int64_t dv_stride, Wide<T>* weighted, Wide<T>* d_weight) {
  for (int64_t i = 0; i < rows; ++i) {
    const Wide<T>* d_i = d + i * width;
    const T* v_i = v + i * v_stride;
    d_weight[i] = dot(width, v_i, d_i);
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      store(dv + i * dv_stride + j, weight[i] * d_i[j]);
      weighted[i * width + j] = weight[i] * static_cast<Wide<T>>(v_i[j]);
    }
  }
}

// The way back through decay_i h0 c_i, where d_i = dy_i^T h0: dc_i += decay_i d_i, and log(decay_i) is owed decay_i <d_i, c_i>.
template <class T>
void entering_backward(int64_t rows, int64_t state, const Wide<T>* d, const Wide<T>* decay, const T* c, int64_t c_stride, Wide<T>* dc,
                       Wide<T>* d_log) {
  for (int64_t i = 0; i < rows; ++i) {
    const Wide<T>* d_i = d + i * state;
#pragma omp simd
    for (int64_t n = 0; n < state; ++n) dc[i * state + n] += decay[i] * d_i[n];
    d_log[i] = decay[i] * dot(state, c + i * c_stride, d_i);
  }
}

// ---- pairs of blocks: rows i, columns j

// kBlock times `inside`, then kBlock times `beyond`: from element kBlock - i on they tell columns j < i from the others.
template <class W>
constexpr std::array<W, 2 * kBlock> border(W inside, W beyond) {
  std::array<W, 2 * kBlock> values{};
  std::fill(values.begin(), values.begin() + kBlock, inside);
  std::fill(values.begin() + kBlock, values.end(), beyond);
  return values;
}
template <class W>
inline constexpr auto kCausal = border(W(0), W(-1e30));  // what no exponential survives
template <class W>
inline constexpr auto kBelow = border(W(1), W(0));

// decay[i, j] = exp(cum_i - cum_j) for the columns of an earlier block: a product over the border between them, of which both factors are
// at most 1.
template <class W>
void decay_across(int64_t rows, const double* row_cum, const double* column_cum, W* decay) {
  W before[kBlock], after[kBlock];
#pragma omp simd
  for (int64_t j = 0; j < kBlock; ++j) before[j] = fast_exp(static_cast<W>(row_cum[0] - column_cum[j]));
#pragma omp simd
  for (int64_t i = 0; i < kBlock; ++i) after[i] = fast_exp(static_cast<W>(row_cum[i] - row_cum[0]));
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < kBlock; ++j) decay[i * kBlock + j] = after[i] * before[j];
}

// The same inside a block, and zero for j > i. Differences are masked before they are raised, so that nothing overflows.
template <class W>
void decay_inside(int64_t rows, const double* cum, W* decay) {
  for (int64_t i = 0; i < rows; ++i) {
    const W* mask = kCausal<W>.data() + kBlock - 1 - i;
#pragma omp simd
    for (int64_t j = 0; j < kBlock; ++j) decay[i * kBlock + j] = fast_exp(static_cast<W>(cum[i] - cum[j]) + mask[j]);
  }
}

// decay[i, j] becomes m_ij = scores_ij decay_ij step_j.
template <class W>
void weigh_scores(int64_t rows, const W* scores, const W* step, W* decay) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < kBlock; ++j) decay[i * kBlock + j] *= scores[i * kBlock + j] * step[j];
}

// The way back through that, from the last row to the first, after the rows of later blocks. Adds to d_scores and d_step.
// The log of decay i, j is a_{j+1} + ... + a_i, so that a_i is owed what all pairs (i', j) with j < i <= i' are. Those of column j are,
// when row i has added its own, d_step_j step_j. No large sums are subtracted from each other: where states decay fast, what is left of
// them would be noise.
template <class W>
void weigh_scores_backward(int64_t rows, bool diagonal, const W* d_m, const W* scores, const W* step, W* decay, W* d_scores, W* d_step,
                           W* d_a) {
  for (int64_t i = rows; i-- > 0;) {
    const W* below = kBelow<W>.data() + (diagonal ? kBlock - i : 0);
    W lane[kLanes] = {};
    for (int64_t j = 0; j < kBlock; j += kLanes)
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) {
        const int64_t at = i * kBlock + j + s;
        const W weight = decay[at] * step[j + s], sum = d_step[j + s] + d_m[at] * scores[at] * decay[at];
        d_scores[at] += d_m[at] * weight;
        d_step[j + s] = sum;
        lane[s] += sum * step[j + s] * below[j + s];
        decay[at] = scores[at] * weight;
      }
    d_a[i] += sum_of_lanes<kLanes>(lane);
  }
}

}  // namespace ropewalk::ssd
