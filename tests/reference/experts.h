// A mixture of experts by its definition: every token asks each of its experts, one by one, in double.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk::reference {

// y [tokens, N] = sum over slots j of weight[t, j] x_t matrix[expert[t, j]]^T, with x [tokens, K] and matrix [E, N, K].
inline std::vector<double> mixture(const std::vector<double>& x, const std::vector<double>& matrix, const std::vector<int64_t>& expert,
                                   const std::vector<double>& weight, int64_t tokens, int64_t top_k, int64_t n, int64_t k) {
  std::vector<double> y(tokens * n);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < top_k; ++j)
      for (int64_t row = 0; row < n; ++row)
        for (int64_t i = 0; i < k; ++i)
          y[t * n + row] += weight[t * top_k + j] * matrix[(expert[t * top_k + j] * n + row) * k + i] * x[t * k + i];
  return y;
}

}  // namespace ropewalk::reference
