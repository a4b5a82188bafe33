// u = y * silu(z); out[r, c] = u[r, c] / sqrt(mean over the group of c of s^2 + eps) * weight[c], with s = u (gate first) or s = y (norm
// first).
#pragma once

#include <cmath>
#include <vector>

namespace ropewalk::reference {

inline std::vector<double> gated_rms_norm(const std::vector<double>& y, const std::vector<double>& z, const std::vector<double>& weight,
                                          size_t groups, double eps, bool norm_first = false) {
  std::vector<double> u, out;
  for (size_t i = 0; i < y.size(); ++i) u.push_back(y[i] * z[i] / (1 + std::exp(-z[i])));
  const size_t width = weight.size() / groups;
  for (size_t i = 0; i < u.size(); ++i) {
    const size_t group = i / width * width;  // rows hold whole groups
    double mean_square = 0;
    for (size_t c = 0; c < width; ++c) mean_square += std::pow(norm_first ? y[group + c] : u[group + c], 2) / static_cast<double>(width);
    out.push_back(u[i] / std::sqrt(mean_square + eps) * weight[i % weight.size()]);
  }
  return out;
}

}  // namespace ropewalk::reference
