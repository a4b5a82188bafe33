// y = sum_i weights[i] * x_i, element by element.
#pragma once

#include <vector>

namespace ropewalk::reference {

inline std::vector<double> weighted_sum(const std::vector<std::vector<double>>& x, const std::vector<double>& weights) {
  std::vector<double> y(x[0].size());
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t j = 0; j < y.size(); ++j) y[j] += weights[i] * x[i][j];
  return y;
}

}  // namespace ropewalk::reference
