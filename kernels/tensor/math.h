// Scalar functions that the compiler vectorizes inside vectorized leaves.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ropewalk {

// e^x. In double the library's. In float under 2 ulp, zero below -87.3, infinity above 88.72. With n = round(x / ln 2) and
// r = x - n ln 2, in two parts as in Cephes: e^x = 2^n e^r, where e^r = 1 + r + r^2 q(r), and q's coefficients are those of least relative
// error on |r| <= ln 2 / 2 (Remez; 3e-9).
inline double fast_exp(double x) { return std::exp(x); }
// The same where x is known to stay below 88.72, as in a softmax.
inline double exp_below(double x) { return std::exp(x); }
inline float exp_below(float x) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to an integer, which stands in its low bits
  const float shifted = x * 1.44269504f + kRounder, n = shifted - kRounder;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float q = 1.381461326e-3f;
  q = q * r + 8.368709824e-3f;
  q = q * r + 4.166838736e-2f;
  q = q * r + 1.666652069e-1f;
  q = q * r + 4.999999345e-1f;
  const float p = q * (r * r) + r + 1.0f;
  const float y = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
  return x < -87.3f ? 0.0f : y;
}
inline float fast_exp(float x) { return x > 88.72f ? std::numeric_limits<float>::infinity() : exp_below(x); }

template <class W>
inline W sigmoid(W x) {
  return W(1) / (W(1) + fast_exp(-x));
}
template <class W>
inline W silu(W x) {
  return x * sigmoid(x);
}
// d silu(x) / dx
template <class W>
inline W silu_slope(W x) {
  const W s = sigmoid(x);
  return s * (W(1) + x * (W(1) - s));
}
// log(1 + x) for x in [0, 1]. In double the library's; in float 2 atanh(s) with s = x / (2 + x) <= 1/3, by its series: under 2 ulp.
inline double fast_log1p(double x) { return std::log1p(x); }
inline float fast_log1p(float x) {
  const float s = x / (2.0f + x), square = s * s;
  float p = 1.0f / 15;
  p = p * square + 1.0f / 13;
  p = p * square + 1.0f / 11;
  p = p * square + 1.0f / 9;
  p = p * square + 1.0f / 7;
  p = p * square + 1.0f / 5;
  p = p * square + 1.0f / 3;
  return 2 * s + 2 * s * square * p;
}
// log(1 + e^x), without overflow.
template <class W>
inline W softplus(W x) {
  return std::max(x, W(0)) + fast_log1p(fast_exp(-std::abs(x)));
}

}  // namespace ropewalk
