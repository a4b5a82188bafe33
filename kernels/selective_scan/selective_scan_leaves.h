// The inner loops of selective_scan_cpu.cpp. A tile is kLanes channels of one head over the tokens of a chunk: [tokens, kLanes] of the wide
// type, zeros where the head has no more channels. W is float or double, T what an operand is stored as.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/tensor/dtype.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/store.h"

namespace ropewalk::s6 {

constexpr int kLanes = 16;
constexpr int kPair = 2;  // states that go through the tokens together, so that neither waits for itself

constexpr double kLog2OfE = 1.4426950408889634, kLn2 = 0.6931471805599453;

// 2^x for x <= 0. In float 1 + r q(r) on [-1/2, 1/2], q of degree 4 with the smallest greatest relative error (found by reweighted least
// squares), which is 9e-8 and vanishes at 0: a state that decays slowly multiplies thousands of these. Not below 2^-125.
inline double exp2_of_negative(double x) { return std::exp2(x); }
inline float exp2_of_negative(float x) {
  constexpr float kRound = 0x1.8p23f;  // added, it leaves the nearest integer in the low bits
  const float clamped = std::max(x, -125.0f);
  const float shifted = clamped + kRound;
  const float r = clamped - (shifted - kRound);
  float p = 1.3264727194e-3f;
  p = p * r + 9.6715126282e-3f;
  p = p * r + 5.5507337438e-2f;
  p = p * r + 2.4022242085e-1f;
  p = p * r + 6.9314697760e-1f;
  p = p * r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<int32_t>(p) + (std::bit_cast<int32_t>(shifted) << 23));
}

// `width` neighbouring channels of each token, dealt to tiles that lie `distance` apart. Whole rows at once: tokens lie so far apart that
// every piece of a row costs a page.
template <class T>
void load_tiles(int64_t tokens, int64_t width, const T* from, int64_t stride, Wide<T>* to, int64_t distance) {
  for (int64_t t = 0; t < tokens; ++t) {
    const T* row = from + t * stride;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      Wide<T>* lanes = to + c / kLanes * distance + t * kLanes;
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) lanes[s] = static_cast<Wide<T>>(row[c + s]);
    }
    if (c == width) continue;
    Wide<T>* lanes = to + c / kLanes * distance + t * kLanes;
    for (int s = 0; s < kLanes; ++s) lanes[s] = c + s < width ? static_cast<Wide<T>>(row[c + s]) : Wide<T>(0);
  }
}

// The same the other way.
template <class T>
void store_tiles(int64_t tokens, int64_t width, const Wide<T>* from, int64_t distance, T* to, int64_t stride) {
  for (int64_t t = 0; t < tokens; ++t) {
    T* row = to + t * stride;
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      const Wide<T>* lanes = from + c / kLanes * distance + t * kLanes;
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) store(row + c + s, lanes[s]);
    }
    const Wide<T>* lanes = from + c / kLanes * distance + t * kLanes;
    for (int s = 0; c + s < width; ++s) store(row + c + s, lanes[s]);
  }
}

// rate[n, s] = -exp(a_log[s, n]) log2(e)
template <class W>
void rates_of_tile(int64_t width, int64_t states, const W* a_log, W* rate) {
  for (int64_t s = 0; s < width; ++s)
    for (int64_t n = 0; n < states; ++n) rate[n * kLanes + s] = -static_cast<W>(kLog2OfE) * fast_exp(a_log[s * states + n]);
}

// raw += bias; step = softplus(raw); input = step x; y = skip x, and may be x.
template <class W>
void open_tile(int64_t tokens, const W* bias, const W* skip, const W* x, W* raw, W* step, W* input, W* y) {
  for (int64_t t = 0; t < tokens; ++t)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) {
      const int64_t at = t * kLanes + s;
      raw[at] += bias[s];
      step[at] = softplus(raw[at]);
      input[at] = step[at] * x[at];
      y[at] = skip[s] * x[at];
    }
}

// y += the scan from `state` [states, kLanes] on, which becomes the state behind the tokens; b, c [tokens, states].
template <class W>
void scan_tile(int64_t tokens, int64_t states, const W* step, const W* input, const W* b, const W* c, const W* rate, W* state, W* y) {
  for (int64_t t = 0; t < tokens; ++t) {
    const W *step_t = step + t * kLanes, *input_t = input + t * kLanes;
    W sum[kLanes] = {};
    for (int64_t n = 0; n < states; ++n) {
      const W *rate_n = rate + n * kLanes, b_n = b[t * states + n], c_n = c[t * states + n];
      W* h = state + n * kLanes;
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) {
        h[s] = exp2_of_negative(step_t[s] * rate_n[s]) * h[s] + input_t[s] * b_n;
        sum[s] += h[s] * c_n;
      }
    }
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) y[t * kLanes + s] += sum[s];
  }
}

// The scan without its outputs: `state` becomes the state behind the tokens. elapsed += the steps.
template <class W>
void absorb_tile(int64_t tokens, int64_t states, const W* step, const W* input, const W* b, const W* rate, W* state, W* elapsed) {
  for (int64_t t = 0; t < tokens; ++t) {
    const W *step_t = step + t * kLanes, *input_t = input + t * kLanes;
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) elapsed[s] += step_t[s];
    for (int64_t n = 0; n < states; ++n) {
      const W *rate_n = rate + n * kLanes, b_n = b[t * states + n];
      W* h = state + n * kLanes;
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) h[s] = exp2_of_negative(step_t[s] * rate_n[s]) * h[s] + input_t[s] * b_n;
    }
  }
}

// decay[n, s] = 2^(elapsed rate): of all steps together
template <class W>
void decay_of_tile(int64_t states, const W* elapsed, const W* rate, W* decay) {
  for (int64_t n = 0; n < states; ++n)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) decay[n * kLanes + s] = exp2_of_negative(elapsed[s] * rate[n * kLanes + s]);
}

// step = softplus(raw + bias)
template <class W>
void step_of_tile(int64_t tokens, const W* bias, const W* raw, W* step) {
  for (int64_t t = 0; t < tokens; ++t)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) step[t * kLanes + s] = softplus(raw[t * kLanes + s] + bias[s]);
}

// The transpose of scan_tile in its state: d_state, the gradient of the state behind the tokens, becomes that of the state before them.
template <class W>
void return_through_tile(int64_t tokens, int64_t states, const W* step, const W* dy, const W* c, const W* rate, W* d_state) {
  for (int64_t t = tokens; t-- > 0;) {
    const W *step_t = step + t * kLanes, *dy_t = dy + t * kLanes;
    for (int64_t n = 0; n < states; ++n) {
      const W *rate_n = rate + n * kLanes, c_n = c[t * states + n];
      W* g = d_state + n * kLanes;
#pragma omp simd
      for (int s = 0; s < kLanes; ++s) g[s] = exp2_of_negative(step_t[s] * rate_n[s]) * (g[s] + dy_t[s] * c_n);
    }
  }
}

// y *= silu(z)
template <class W>
void gate_tile(int64_t tokens, const W* z, W* y) {
#pragma omp simd
  for (int64_t i = 0; i < tokens * kLanes; ++i) y[i] *= silu(z[i]);
}

// What goes back through a tile of a chunk. Everything [tokens, kLanes] but where said.
template <class W>
struct TileBackward {
  int64_t tokens, states;  // an even number of states
  const W *step, *input, *dy;
  const W *b, *c;            // [tokens, states]
  const W *rate, *entering;  // [states, kLanes]
  W *decay, *before;         // scratch: [tokens, kPair, kLanes], [tokens + 1, kPair, kLanes]
  W* y;                      // added to: the scan's output once more
  W *d_step, *d_input;       // added to; d_step in units of log2(e)
  W* d_rate;                 // [states, kLanes], added to: sum over tokens of step * (gradient of step * rate), the latter likewise
  W* d_state;                // [states, kLanes], in and out: the gradient of the state behind the tokens, then of the one before them
  W *db, *dc;                // [states / kPair, tokens, kPair, kLanes], added to: addends of the gradients of b and c
};

template <class W>
void scan_pair_again(const TileBackward<W>& d, int64_t n) {
  const W *rate = d.rate + n * kLanes, *b = d.b + n, *c = d.c + n;
  W h0[kLanes], h1[kLanes];
#pragma omp simd
  for (int s = 0; s < kLanes; ++s) {
    h0[s] = d.entering[n * kLanes + s];
    h1[s] = d.entering[(n + 1) * kLanes + s];
  }
  for (int64_t t = 0; t < d.tokens; ++t) {
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) {
      const int64_t at = t * kLanes + s, first = kPair * t * kLanes + s, second = first + kLanes;
      const W a0 = exp2_of_negative(d.step[at] * rate[s]), a1 = exp2_of_negative(d.step[at] * rate[kLanes + s]);
      d.decay[first] = a0;
      d.decay[second] = a1;
      d.before[first] = h0[s];
      d.before[second] = h1[s];
      h0[s] = a0 * h0[s] + d.input[at] * b[t * d.states];
      h1[s] = a1 * h1[s] + d.input[at] * b[t * d.states + 1];
      d.y[at] += h0[s] * c[t * d.states] + h1[s] * c[t * d.states + 1];
    }
  }
  W* after = d.before + d.tokens * kPair * kLanes;
#pragma omp simd
  for (int s = 0; s < kLanes; ++s) {
    after[s] = h0[s];
    after[kLanes + s] = h1[s];
  }
}

template <class W>
void pair_backward(const TileBackward<W>& d, int64_t n) {
  const W *rate = d.rate + n * kLanes, *b = d.b + n, *c = d.c + n;
  W *db = d.db + n * d.tokens * kLanes, *dc = d.dc + n * d.tokens * kLanes;
  W g0[kLanes], g1[kLanes], d_rate0[kLanes] = {}, d_rate1[kLanes] = {};
#pragma omp simd
  for (int s = 0; s < kLanes; ++s) {
    g0[s] = d.d_state[n * kLanes + s];
    g1[s] = d.d_state[(n + 1) * kLanes + s];
  }
  for (int64_t t = d.tokens; t-- > 0;)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) {
      const int64_t at = t * kLanes + s, first = kPair * t * kLanes + s, second = first + kLanes;
      const W dy = d.dy[at], dh0 = g0[s] + dy * c[t * d.states], dh1 = g1[s] + dy * c[t * d.states + 1];
      dc[first] += dy * d.before[first + kPair * kLanes];
      dc[second] += dy * d.before[second + kPair * kLanes];
      db[first] += dh0 * d.input[at];
      db[second] += dh1 * d.input[at];
      d.d_input[at] += dh0 * b[t * d.states] + dh1 * b[t * d.states + 1];
      g0[s] = d.decay[first] * dh0;
      g1[s] = d.decay[second] * dh1;
      const W through0 = g0[s] * d.before[first], through1 = g1[s] * d.before[second];
      d.d_step[at] += through0 * rate[s] + through1 * rate[kLanes + s];
      d_rate0[s] += through0 * d.step[at];
      d_rate1[s] += through1 * d.step[at];
    }
#pragma omp simd
  for (int s = 0; s < kLanes; ++s) {
    d.d_state[n * kLanes + s] = g0[s];
    d.d_state[(n + 1) * kLanes + s] = g1[s];
    d.d_rate[n * kLanes + s] += d_rate0[s];
    d.d_rate[(n + 1) * kLanes + s] += d_rate1[s];
  }
}

template <class W>
void scan_tile_backward(TileBackward<W> d) {
  for (int64_t n = 0; n < d.states; n += kPair) {
    scan_pair_again(d, n);
    pair_backward(d, n);
  }
}

// d_y = dy silu(z)
template <class W>
void gate_backward(int64_t tokens, const W* z, const W* dy, W* d_y) {
#pragma omp simd
  for (int64_t i = 0; i < tokens * kLanes; ++i) d_y[i] = dy[i] * silu(z[i]);
}

// z becomes its gradient, dy y silu'(z), where y is not gated.
template <class W>
void gate_gradient(int64_t tokens, const W* dy, const W* y, W* z) {
#pragma omp simd
  for (int64_t i = 0; i < tokens * kLanes; ++i) z[i] = dy[i] * y[i] * silu_slope(z[i]);
}

// The way back through open_tile: raw and x become their gradients. d_step is in units of log2(e).
template <class W>
void open_tile_backward(int64_t tokens, const W* skip, const W* step, const W* dy, const W* d_step, const W* d_input, W* raw, W* x,
                        W* d_bias, W* d_skip) {
  for (int64_t t = 0; t < tokens; ++t)
#pragma omp simd
    for (int s = 0; s < kLanes; ++s) {
      const int64_t at = t * kLanes + s;
      const W d_raw = (static_cast<W>(kLn2) * d_step[at] + d_input[at] * x[at]) * sigmoid(raw[at]);
      d_bias[s] += d_raw;
      d_skip[s] += dy[at] * x[at];
      raw[at] = d_raw;
      x[at] = d_input[at] * step[at] + dy[at] * skip[s];
    }
}

// to[t, n] = the sum of lanes[n / kPair, t, n % kPair, :] for n < states. Consumes lanes: neighbours are added until one is left.
template <class W>
void sum_lanes(int64_t tokens, int64_t states, int64_t padded, W* lanes, W* to, int64_t stride) {
  for (int left = kLanes / 2; left > 0; left /= 2)
#pragma omp simd
    for (int64_t i = 0; i < tokens * padded * left; ++i) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
  for (int64_t n = 0; n < states; ++n)
    for (int64_t t = 0; t < tokens; ++t) to[t * stride + n] = lanes[(n / kPair * tokens + t) * kPair + n % kPair];
}

}  // namespace ropewalk::s6
