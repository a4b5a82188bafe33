// fp32 and bf16 products where there is no AMX, in the registers of AVX-512. A packed panel of a has the layout that costs its source
// least: 6 rows of terms, or terms of 6 rows where the source is transposed. A packed panel of b has rows of 64 columns.
#include "kernels/matmul/blockwise.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk::matmul {
namespace {

constexpr int64_t kRows = 6, kColumns = 64;  // 24 registers of sums

int64_t row_length(int64_t k) { return k + 16; }  // of a panel of a: rows no power of two apart

// Rows of x are terms: deals each row [width] out to panels of kWidth, in which terms follow each other; zeros fill the last panel.
template <int64_t kWidth, class T>
inline void deal_terms(int64_t width, int64_t k, const T* x, int64_t stride, float* to) {
  for (int64_t l = 0; l < k; ++l, x += stride, to += kWidth) {
    int64_t j = 0;
    for (; j + kWidth <= width; j += kWidth)
      for (int64_t e = 0; e < kWidth; ++e) to[j * k + e] = x[j + e];
    if (j == width) continue;
    for (int64_t e = 0; e < kWidth; ++e) to[j * k + e] = j + e < width ? float(x[j + e]) : 0;
  }
}

// to = x [rows, k], then zeros up to kRows.
template <class T>
inline void copy_rows(int64_t rows, int64_t k, const T* x, int64_t stride, float* to, int64_t to_stride) {
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t l = 0; l < k; ++l) to[i * to_stride + l] = i < rows ? float(x[i * stride + l]) : 0;
}

// to [k, kColumns] = x^T, x [columns, k], then zeros; in blocks of terms whose lines stay in L1.
template <class T>
inline void transpose_rows(int64_t columns, int64_t k, const T* x, int64_t stride, float* to) {
  constexpr int64_t kTerms = 16;
  for (int64_t begin = 0; begin < k; begin += kTerms) {
    const int64_t end = std::min(begin + kTerms, k);
    for (int64_t j = 0; j < kColumns; ++j)
      for (int64_t l = begin; l < end; ++l) to[l * kColumns + j] = j < columns ? float(x[j * stride + l]) : 0;
  }
}

// A panel of a, at(i, l) = data[i * row + l * term].
struct PanelOfA {
  const float* data;
  int64_t row, term;
};

// to[i, j] = sum[i, j] + sum_l a(i, l) b[l, j], kRows by kColumns; the sums stay in registers.
template <class C>
inline void multiply_panels(int64_t k, PanelOfA a, const float* b, const float* sum, int64_t sum_stride, C* to, int64_t to_stride) {
  for (int i = 0; i < kRows; ++i)  // so that the lines come while the sums are computed
    for (size_t byte = 0; byte < kColumns * sizeof(C); byte += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(to + i * to_stride) + byte, 1);
  float sums[kRows][kColumns] = {};
  for (int64_t l = 0; l < k; ++l)
    for (int i = 0; i < kRows; ++i) {
      const float a_il = a.data[i * a.row + l * a.term];
#pragma omp simd
      for (int j = 0; j < kColumns; ++j) sums[i][j] += a_il * b[l * kColumns + j];
    }
  for (int i = 0; i < kRows; ++i) {
    if (sum) {
#pragma omp simd
      for (int j = 0; j < kColumns; ++j) store(to + i * to_stride + j, sum[i * sum_stride + j] + sums[i][j]);
    } else {
#pragma omp simd
      for (int j = 0; j < kColumns; ++j) store(to + i * to_stride + j, sums[i][j]);
    }
  }
}

// The same for a corner [rows, columns] of a block.
template <class C>
inline void multiply_corner(int64_t rows, int64_t columns, int64_t k, PanelOfA a, const float* b, const float* sum, int64_t sum_stride,
                            C* to, int64_t to_stride) {
  float sums[kRows][kColumns];
  multiply_panels(k, a, b, nullptr, 0, sums[0], kColumns);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) store(to + i * to_stride + j, (sum ? sum[i * sum_stride + j] : 0) + sums[i][j]);
}

template <class C>
void multiply_piece(Piece<float> p, C* c, int64_t stride) {
  const int64_t row = p.transposed_a ? 1 : row_length(p.k), term = p.transposed_a ? kRows : 1;
  for (int64_t i = 0; i < p.m; i += kRows) {
    const PanelOfA a{p.a + i * (p.transposed_a ? p.k : row_length(p.k)), row, term};
    for (int64_t j = 0; j < p.n; j += kColumns) {
      const float *b = p.b + j * p.k, *sum = p.sum ? p.sum + i * p.sum_stride + j : nullptr;
      const int64_t rows = std::min(kRows, p.m - i), columns = std::min(kColumns, p.n - j);
      if (rows == kRows && columns == kColumns)
        multiply_panels(p.k, a, b, sum, p.sum_stride, c + i * stride + j, stride);
      else
        multiply_corner(rows, columns, p.k, a, b, sum, p.sum_stride, c + i * stride + j, stride);
    }
  }
}

template <class T>
void pack_rows(int64_t rows, int64_t k, const T* x, int64_t stride, bool transposed, float* to) {
  if (transposed) return deal_terms<kRows>(rows, k, x, stride, to);
  for (int64_t i = 0; i < rows; i += kRows, to += kRows * row_length(k))
    copy_rows(std::min(kRows, rows - i), k, x + i * stride, stride, to, row_length(k));
}

template <class T>
void pack_columns(int64_t columns, int64_t k, const T* x, int64_t stride, bool transposed, float* to) {
  if (!transposed) return deal_terms<kColumns>(columns, k, x, stride, to);
  for (int64_t j = 0; j < columns; j += kColumns, to += kColumns * k)
    transpose_rows(std::min(kColumns, columns - j), k, x + j * stride, stride, to);
}

struct Avx512Kernel {
  using Packed = float;
  struct Session {};
  static constexpr int64_t kRows = matmul::kRows, kColumns = matmul::kColumns;
  static constexpr int64_t kDepth = 512;  // columns of b stay in L2 (1 MiB), a panel of a (12 KiB) in L1
  static constexpr int64_t kBlockRows = 256, kBlockColumns = 512, kColumnsOfLongSums = 512, kRowsOfGradients = 256;

  static int64_t size_of_a(int64_t rows, int64_t k) { return divide_up(rows, kRows) * kRows * row_length(k); }
  static int64_t size_of_b(int64_t columns, int64_t k) { return divide_up(columns, kColumns) * kColumns * k; }

  template <class T>
  static void pack_a(const Operand<T>& a, int64_t i, int64_t l, int64_t rows, int64_t k, float* to) {
    const T* const x = a.transpose ? a.data + l * a.stride + i : a.data + i * a.stride + l;
    vectorized<pack_rows<T>>(rows, k, x, a.stride, a.transpose, to);
  }
  template <class T>
  static void pack_b(const Operand<T>& b, int64_t l, int64_t j, int64_t k, int64_t columns, float* to) {
    const T* const x = b.transpose ? b.data + j * b.stride + l : b.data + l * b.stride + j;
    vectorized<pack_columns<T>>(columns, k, x, b.stride, b.transpose, to);
  }
  template <class C>
  static void multiply(const Piece<float>& p, C* c, int64_t stride) {
    vectorized<multiply_piece<C>>(p, c, stride);
  }
};

}  // namespace

void multiply_by_avx512(const MatMul& product, const Problem& p) {
  if (p.in == DType::kFloat32)
    multiply_blockwise<Avx512Kernel, float>(product, p);
  else
    multiply_blockwise<Avx512Kernel, bfloat16>(product, p);
}

}  // namespace ropewalk::matmul
