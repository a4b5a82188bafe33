// y[r, c] = (x[r, c] - mean) / sqrt(variance + eps) * weight[c] + bias[c], mean and variance over the row
#pragma once

#include <cmath>
#include <vector>

namespace ropewalk::reference {

inline std::vector<double> layer_norm(const std::vector<double>& x, const std::vector<double>& weight, const std::vector<double>& bias,
                                      double eps) {
  std::vector<double> y;
  const size_t width = weight.size();
  const double count = static_cast<double>(width);
  for (size_t row = 0; row < x.size(); row += width) {
    double mean = 0, variance = 0;
    for (size_t c = 0; c < width; ++c) mean += x[row + c] / count;
    for (size_t c = 0; c < width; ++c) variance += (x[row + c] - mean) * (x[row + c] - mean) / count;
    for (size_t c = 0; c < width; ++c) y.push_back((x[row + c] - mean) / std::sqrt(variance + eps) * weight[c] + bias[c]);
  }
  return y;
}

}  // namespace ropewalk::reference
