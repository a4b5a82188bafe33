// y[r, c] = x[r, c] / sqrt(mean over c of x[r, c]^2 + eps) * weight[c]
#pragma once

#include <cmath>
#include <vector>

namespace ropewalk::reference {

inline std::vector<double> rms_norm(const std::vector<double>& x, const std::vector<double>& weight, double eps) {
  std::vector<double> y;
  const size_t width = weight.size();
  for (size_t row = 0; row < x.size(); row += width) {
    double mean_square = 0;
    for (size_t c = 0; c < width; ++c) mean_square += x[row + c] * x[row + c] / static_cast<double>(width);
    for (size_t c = 0; c < width; ++c) y.push_back(x[row + c] / std::sqrt(mean_square + eps) * weight[c]);
  }
  return y;
}

}  // namespace ropewalk::reference
