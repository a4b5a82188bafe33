// The inner loops of ssd_cpu.cpp around its matrix products. W is float or double, T what an operand is stored as.
#pragma once

#include <algorithm>
#include <array>

#include "kernels/tensor/dtype.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk::ssd {

// Tokens: the square of a chunk's scores is made this many rows at a time, in rows of whole blocks.
constexpr int64_t kBlock = 32;
constexpr int kLanes = 16;

// to[i, :] = from[i, :]; meanwhile fetches what stands to the right, which is the next head's. Rows of different tokens lie too far apart
// for the hardware to see a pattern.
template <class T>
void load_rows(int64_t rows, int64_t width, const T* from, int64_t stride, Wide<T>* to) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += kLine) __builtin_prefetch(from + i * stride + width + j, 0, 2);
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = static_cast<Wide<T>>(from[i * stride + j]);
  }
}

// The same the other way, and what is fetched is about to be written.
template <class T>
void store_rows(int64_t rows, int64_t width, const Wide<T>* from, T* to, int64_t stride) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += kLine) __builtin_prefetch(to + i * stride + width + j, 1, 2);
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, from[i * width + j]);
  }
}

// to[j, i] = from[i, j]; meanwhile fetches the matrix behind `from`, the next head's.
template <class W>
void transpose_state(int64_t rows, int64_t width, const W* from, W* to) {
  constexpr int64_t kLine = 64 / sizeof(W);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += kLine) __builtin_prefetch(from + (rows + i) * width + j, 0, 2);
    for (int64_t j = 0; j < width; ++j) to[j * rows + i] = from[i * width + j];
  }
}

// to[i, :] = scale[i] * from[i, :]; to may be from.
template <class W>
void scale_rows(int64_t rows, int64_t width, const W* scale, const W* from, W* to) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) to[i * width + j] = scale[i] * from[i * width + j];
}

// to[i, :] = base[i, :] + scale[i] * from[i, :], where base and to share a stride.
template <class T>
void add_scaled_rows(int64_t rows, int64_t width, const Wide<T>* scale, const Wide<T>* from, const Wide<T>* base, T* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) store(to + i * stride + j, base[i * stride + j] + scale[i] * from[i * width + j]);
}

// The sum of kLanes values, in halves: one after another they would wait for each other.
template <class W>
[[gnu::always_inline]] inline W sum_of_lanes(W* lane) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int s = 0; s < width; ++s) lane[s] += lane[s + width];
  return lane[0];
}

template <class W>
[[gnu::always_inline]] inline W dot(int64_t n, const W* x, const W* y) {
  W lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) lane[s] += x[i + s] * y[i + s];
  for (; i < n; ++i) lane[0] += x[i] * y[i];
  return sum_of_lanes(lane);
}

// to[i] = <x[i, :], y[i, :]>
template <class W>
void dot_rows(int64_t rows, int64_t width, const W* x, const W* y, W* to) {
  for (int64_t i = 0; i < rows; ++i) to[i] = dot(width, x + i * width, y + i * width);
}

// The way back through exp(cum_i) h0 c_i, where d_state_i = exp(cum_i) dy_i^T h0: dc_i += d_state_i, d_cum_i += <d_state_i, c_i>.
template <class W>
void entering_backward(int64_t rows, int64_t state, const W* d_state, const W* c, W* dc, W* d_cum) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t n = 0; n < state; ++n) dc[i * state + n] += d_state[i * state + n];
    d_cum[i] += dot(state, d_state + i * state, c + i * state);
  }
}

// x becomes softplus(x).
template <class W>
void softplus_row(int64_t n, W* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = softplus(x[i]);
}

// d becomes d * sigmoid(x).
template <class W>
void softplus_backward_row(int64_t n, const W* x, W* d) {
  for (int64_t i = 0; i < n; ++i) d[i] *= sigmoid(x[i]);
}

// to[i] = exp(last - cum[i])
template <class W>
void decay_until(int64_t n, double last, const double* cum, W* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = fast_exp(static_cast<W>(last - cum[i]));
}

// to[i] = exp(cum[i])
template <class W>
void decay_since_start(int64_t n, const double* cum, W* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = fast_exp(static_cast<W>(cum[i]));
}

// 0 for k < kBlock, then what no exponential survives.
template <class W>
inline constexpr std::array<W, 2 * kBlock> kCausalMask = [] {
  std::array<W, 2 * kBlock> mask{};
  std::fill(mask.begin() + kBlock, mask.end(), W(-1e30));
  return mask;
}();

// decay[i - first, j] = exp(cum_i - cum_j) for rows i in [first, first + rows) and columns j <= i; 0 for j > i up to first + kBlock.
// Left of the diagonal block the exponential is a product over the block's border: both factors are at most 1. Inside it differences are
// masked before they are raised, so that nothing overflows. `before` is scratch for `first` values.
template <class W>
void decay_block(int64_t first, int64_t rows, const double* cum, W* before, W* decay, int64_t stride) {
  for (int64_t j = 0; j < first; ++j) before[j] = fast_exp(static_cast<W>(cum[first] - cum[j]));
  for (int64_t i = 0; i < rows; ++i) {
    const double cum_i = cum[first + i];
    const W after = fast_exp(static_cast<W>(cum_i - cum[first]));
    const W* mask = kCausalMask<W>.data() + kBlock - 1 - i;
    W* row = decay + i * stride;
    for (int64_t j = 0; j < first; ++j) row[j] = after * before[j];
    for (int64_t j = 0; j < kBlock; ++j) row[first + j] = fast_exp(static_cast<W>(cum_i - cum[first + j]) + mask[j]);
  }
}

// decay[i, j] *= scores[i, j] * step[j]
template <class W>
void weigh_scores(int64_t rows, int64_t columns, int64_t stride, const W* scores, const W* step, W* decay) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) decay[i * stride + j] *= scores[i * stride + j] * step[j];
}

// The way back through m_ij = scores_ij decay_ij step_j, for a block of rows. Adds to d_scores, to d_step_j
// what row i owes it and to d_cum_i what the columns owe it; turns decay into m.
template <class W>
void weigh_scores_backward(int64_t rows, int64_t columns, int64_t stride, const W* d_m, const W* scores, const W* step, W* decay,
                           W* d_scores, W* d_step, W* d_cum) {
  for (int64_t i = 0; i < rows; ++i) {
    W lane[kLanes] = {};
    for (int64_t j = 0; j < columns; j += kLanes)
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) {
        const int64_t at = i * stride + j + s;
        const W weight = decay[at] * step[j + s], through = d_m[at] * scores[at] * decay[at];
        d_scores[at] += d_m[at] * weight;
        d_step[j + s] += through;
        lane[s] += through * step[j + s];
        decay[at] = scores[at] * weight;
      }
    d_cum[i] += sum_of_lanes(lane);
  }
}

}  // namespace ropewalk::ssd
