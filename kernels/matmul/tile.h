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
  Matrix from_row(int64_t i) const { return {data + i * row, row, col}; }
};

// c[i, j] += sum_l a(i, l) * b[l, j] for i < kRows, j < kColumns; the sums stay in registers. Without the pragmas the compiler unrolls
// the narrow loops before it looks for vectors in them, and finds none.
template <class W, int kRows, int kColumns>
[[gnu::always_inline]] inline void add_block(int64_t k, Matrix<W> a, const W* b, int64_t ldb, W* c, int64_t ldc) {
  W sum[kRows][kColumns] = {};
  for (int64_t l = 0; l < k; ++l)
    for (int i = 0; i < kRows; ++i) {
      const W a_il = a.data[i * a.row + l * a.col];
#pragma omp simd
      for (int j = 0; j < kColumns; ++j) sum[i][j] += a_il * b[l * ldb + j];
    }
  for (int i = 0; i < kRows; ++i) {
#pragma omp simd
    for (int j = 0; j < kColumns; ++j) c[i * ldc + j] += sum[i][j];
  }
}

// kRows rows of c, in blocks of kColumns, then half of that, and so on to the last column. Four rows of 256 bytes fill half of AVX-512's
// registers with sums, which hides the latency of their additions.
template <class W, int kRows, int kColumns = 256 / sizeof(W)>
[[gnu::always_inline]] inline void add_rows(int64_t n, int64_t k, Matrix<W> a, const W* b, int64_t ldb, W* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + kColumns <= n; j += kColumns) add_block<W, kRows, kColumns>(k, a, b + j, ldb, c + j, ldc);
  if constexpr (kColumns > 1) add_rows<W, kRows, kColumns / 2>(n - j, k, a, b + j, ldb, c + j, ldc);
}

// c[i, j] += sum_l a(i, l) * b[l, j] for i < m, j < n, l < k; b and c have dense rows (strides ldb, ldc). W is float or double.
template <class W>
void multiply_add(int64_t m, int64_t n, int64_t k, Matrix<W> a, const W* b, int64_t ldb, W* c, int64_t ldc) {
  constexpr int kRows = 4;
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) add_rows<W, kRows>(n, k, a.from_row(i), b, ldb, c + i * ldc, ldc);
  for (; i < m; ++i) add_rows<W, 1>(n, k, a.from_row(i), b, ldb, c + i * ldc, ldc);
}

// to[i, j] = from[i, j] for i < rows, j < columns.
template <class X, class W>
void copy(int64_t rows, int64_t columns, const X* from, int64_t from_stride, W* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) to[i * to_stride + j] = static_cast<W>(from[i * from_stride + j]);
  }
}

// to[j, i] = from[i, j]: turns a product with b^T into multiply_add.
template <class X, class W>
inline void transpose(int64_t rows, int64_t columns, const X* from, int64_t from_stride, W* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = static_cast<W>(from[i * from_stride + j]);
}

}  // namespace ropewalk::tile
