// Definition of Mamba-1's scan: the recurrence, one token after another.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/tensor/runs.h"

namespace ropewalk::reference {

// x, dt before softplus and z (may be empty) [B, S, C], b and c [B, S, H, N], a_log [C, N], dt_bias and d_skip [C]; all dense.
struct SelectiveScan {
  int64_t tokens, channels, heads, states;
  std::vector<double> x, dt, z, b, c, a_log, dt_bias, d_skip;

  struct Result {
    std::vector<double> y, leaving;  // [B, S, C], [R, C, N]
  };

  // One channel of one token: h [N] before it becomes h behind it. Returns y.
  double advance(int64_t token, int64_t channel, double* h) const {
    const int64_t at = token * channels + channel, head = channel / (channels / heads);
    const double step = std::log1p(std::exp(dt[at] + dt_bias[channel]));
    double y = d_skip[channel] * x[at];
    for (int64_t n = 0; n < states; ++n) {
      const double a = -std::exp(a_log[channel * states + n]);
      const int64_t of_head = (token * heads + head) * states + n;
      h[n] = std::exp(step * a) * h[n] + step * x[at] * b[of_head];
      y += c[of_head] * h[n];
    }
    return z.empty() ? y : y * z[at] / (1 + std::exp(-z[at]));
  }

  // From h0 [E, C, N] (empty: zeros) on.
  Result scan(const Runs& runs, const std::vector<double>& h0) const {
    Result result{std::vector<double>(x.size()), std::vector<double>(runs.size() * channels * states)};
    for (size_t r = 0; r < runs.size(); ++r)
      for (int64_t channel = 0; channel < channels; ++channel) {
        double* h = result.leaving.data() + (static_cast<int64_t>(r) * channels + channel) * states;
        for (int64_t n = 0; n < states && !runs[r].opens() && !h0.empty(); ++n)
          h[n] = h0[(runs[r].enters * channels + channel) * states + n];
        for (int64_t i = 0; i < runs[r].length; ++i) {
          const int64_t token = runs[r].row * tokens + runs[r].begin + i;
          result.y[token * channels + channel] = advance(token, channel, h);
        }
      }
    return result;
  }
};

}  // namespace ropewalk::reference
