// Scalar functions that the compiler vectorizes inside vectorized leaves.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace ropewalk {

// e^x. In double the library's; in float, Cephes' degree-6 polynomial on [-ln2/2, ln2/2] and a scaling by 2^n: under 2 ulp, flushes to
// zero below -87.3 and gives infinity above 88.7.
inline double fast_exp(double x) { return std::exp(x); }
inline float fast_exp(float x) {
  const float clamped = std::min(std::max(x, -87.3f), 88.7f);
  const float n = std::floor(clamped * 1.44269504f + 0.5f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors: n may be 128, which one exponent field cannot hold.
  const auto half = static_cast<int32_t>(n) / 2, rest = static_cast<int32_t>(n) - half;
  const float y = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((rest + 127) << 23);
  return x < -87.3f ? 0.0f : y;
}

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
