// What a sub-layer costs, counted from its options: of the whole model, whatever the mesh.
#pragma once

#include <cstdint>
#include <optional>

namespace ropewalk {

struct TokenShape {
  int64_t rows = 1, length = 0;
  double tokens() const { return static_cast<double>(rows) * static_cast<double>(length); }
};

struct Cost {
  double flops = 0;  // of forward; a multiply-add counts two. Backward does twice as many.

  Cost& operator+=(const Cost& other) {
    flops += other.flops;
    return *this;
  }
};

// Keys that the queries of a row of this length see, summed: causal, `window` of them at most.
inline double visible_keys(int64_t length, std::optional<int64_t> window) {
  const double n = static_cast<double>(length), w = window && *window < length ? static_cast<double>(*window) : n;
  return w * (w + 1) / 2 + (n - w) * w;
}

}  // namespace ropewalk
