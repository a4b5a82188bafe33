// Products of row-major matrices by their definition.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk::reference {

// [rows, columns] -> [columns, rows]
inline std::vector<double> transposed(const std::vector<double>& x, int64_t rows, int64_t columns) {
  std::vector<double> y(x.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) y[j * rows + i] = x[i * columns + j];
  return y;
}

// c += a b, with a [m, k], b [k, n], c [m, n]
inline void add_product(const std::vector<double>& a, const std::vector<double>& b, std::vector<double>& c, int64_t m, int64_t n,
                        int64_t k) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l) c[i * n + j] += a[i * k + l] * b[l * n + j];
}

}  // namespace ropewalk::reference
