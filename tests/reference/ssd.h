// Definition of Mamba-2's scan: the recurrence, one token after another.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/tensor/runs.h"

namespace ropewalk::reference {

// v [B, S, H, P], dt [B, S, H] before softplus, b and c [B, S, G, N], a_log, dt_bias and d_skip [H]; all dense.
struct Ssd {
  int64_t tokens, heads, width, groups, state;
  std::vector<double> v, dt, b, c, a_log, dt_bias, d_skip;
  double dt_low, dt_high;

  double step(int64_t token, int64_t h) const {
    const double step = std::log1p(std::exp(dt[token * heads + h] + dt_bias[h]));
    return step < dt_low ? dt_low : step > dt_high ? dt_high : step;
  }
  double decay(int64_t token, int64_t h) const { return std::exp(-std::exp(a_log[h]) * step(token, h)); }

  // S_t = exp(a_t) S_{t-1} + dt_t v_t b_t^T for one token (an index into all B * S) and one head; S [P, N].
  void advance(double* S, int64_t token, int64_t h) const {
    const double* b_t = &b[(token * groups + h * groups / heads) * state];
    for (int64_t p = 0; p < width; ++p)
      for (int64_t n = 0; n < state; ++n)
        S[p * state + n] = decay(token, h) * S[p * state + n] + step(token, h) * v[(token * heads + h) * width + p] * b_t[n];
  }

  // y_t = S_t c_t + d_skip v_t
  void output(const double* S, int64_t token, int64_t h, std::vector<double>& y) const {
    const double* c_t = &c[(token * groups + h * groups / heads) * state];
    for (int64_t p = 0; p < width; ++p) {
      const int64_t at = (token * heads + h) * width + p;
      y[at] = d_skip[h] * v[at];
      for (int64_t n = 0; n < state; ++n) y[at] += S[p * state + n] * c_t[n];
    }
  }

  struct Result {
    std::vector<double> y;       // [B, S, H, P]
    std::vector<double> states;  // [R, H, P, N]: after each run
    std::vector<double> decay;   // [R, H]: product over each run
  };

  // Each run starts from its own state: start [R, H, P, N], or zeros where it is empty.
  Result scan(const Runs& runs, const std::vector<double>& start) const {
    const int64_t size = width * state;
    Result result{std::vector<double>(v.size()), start, {}};
    if (start.empty()) result.states.resize(runs.size() * heads * size);
    for (size_t r = 0; r < runs.size(); ++r)
      for (int64_t h = 0; h < heads; ++h) {
        double* S = &result.states[(static_cast<int64_t>(r) * heads + h) * size];
        result.decay.push_back(1);
        for (int64_t t = 0; t < runs[r].length; ++t) {
          const int64_t token = runs[r].row * tokens + runs[r].begin + t;
          advance(S, token, h);
          output(S, token, h, result.y);
          result.decay.back() *= decay(token, h);
        }
      }
    return result;
  }
};

}  // namespace ropewalk::reference
