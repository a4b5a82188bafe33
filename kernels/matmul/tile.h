// Small dense products inside a cache-sized tile, for ops that fuse several of them (SSD chunks, attention blocks).
#pragma once

#include <cstdint>

#include "kernels/tensor/vectorized.h"

namespace ropewalk::tile {

// A matrix operand: element (i, j) stands at data[i * row + j * col]. `transposed()` swaps the roles.
template <class W>
struct Matrix {
  const W* data;
  int64_t row, col = 1;
  Matrix transposed() const { return {data, col, row}; }
};

// c[i, j] += sum_k a(i, k) * b[k, j] for i < m, j < n; b and c have dense rows (strides ldb, ldc). W is float or double.
// Four rows by one block of columns stay in registers while k runs.
template <class W>
ROPEWALK_VECTORIZED void multiply_add(int64_t m, int64_t n, int64_t k, Matrix<W> a, const W* b, int64_t ldb, W* c, int64_t ldc) {
  constexpr int64_t kRows = 4, kColumns = 128 / sizeof(W);
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) {
    int64_t j = 0;
    for (; j + kColumns <= n; j += kColumns) {
      W sum[kRows][kColumns] = {};
      for (int64_t l = 0; l < k; ++l) {
        const W* b_row = b + l * ldb + j;
        for (int64_t r = 0; r < kRows; ++r) {
          const W a_il = a.data[(i + r) * a.row + l * a.col];
          for (int64_t s = 0; s < kColumns; ++s) sum[r][s] += a_il * b_row[s];
        }
      }
      for (int64_t r = 0; r < kRows; ++r)
        for (int64_t s = 0; s < kColumns; ++s) c[(i + r) * ldc + j + s] += sum[r][s];
    }
    if (j == n) continue;
    for (int64_t l = 0; l < k; ++l)
      for (int64_t r = 0; r < kRows; ++r) {
        const W a_il = a.data[(i + r) * a.row + l * a.col];
        for (int64_t s = j; s < n; ++s) c[(i + r) * ldc + s] += a_il * b[l * ldb + s];
      }
  }
  for (; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) {
      const W a_il = a.data[i * a.row + l * a.col];
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] += a_il * b[l * ldb + j];
    }
}

// to[j, i] = from[i, j] for i < rows, j < columns: turns a product with b^T into multiply_add.
template <class W>
inline void transpose(int64_t rows, int64_t columns, const W* from, int64_t from_stride, W* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

}  // namespace ropewalk::tile
