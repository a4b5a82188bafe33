// Definition of the depthwise causal convolution with SiLU over runs.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/tensor/runs.h"

namespace ropewalk::reference {

// x [B, S, C], weight [C, W], bias [C], halo [E, W - 1, C] (may be empty: zeros); all dense.
inline std::vector<double> causal_conv1d_silu(const std::vector<double>& x, const std::vector<double>& weight,
                                              const std::vector<double>& bias, const std::vector<double>& halo, const Runs& runs,
                                              int64_t tokens, int64_t channels, int64_t width) {
  std::vector<double> y(x.size());
  for (const Run& run : runs)
    for (int64_t t = 0; t < run.length; ++t)
      for (int64_t c = 0; c < channels; ++c) {
        double z = bias[c];
        for (int64_t j = 0; j < width; ++j) {
          const int64_t from = t - (width - 1) + j;
          double value = 0;
          if (from >= 0)
            value = x[(run.row * tokens + run.begin + from) * channels + c];
          else if (run.enters >= 0 && !halo.empty())
            value = halo[(run.enters * (width - 1) + (width - 1) + from) * channels + c];
          z += weight[c * width + j] * value;
        }
        y[(run.row * tokens + run.begin + t) * channels + c] = z / (1 + std::exp(-z));
      }
  return y;
}

}  // namespace ropewalk::reference
