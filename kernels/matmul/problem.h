// What is known about a product once it is checked, for the ways to compute it.
#pragma once

#include <algorithm>
#include <compare>

#include "kernels/matmul/matmul.h"

namespace ropewalk::matmul {

// c [m, n] (+)= op(a) [m, k] op(b) [k, n], and all else that the way to compute it depends on.
struct Problem {
  int64_t m, n, k;
  int64_t a_stride, b_stride, c_stride;
  bool transpose_a, transpose_b, accumulate;
  DType in, out;
  auto operator<=>(const Problem&) const = default;
};

// Throws where the operands do not fit.
Problem problem_of(const MatMul& product);

inline int64_t divide_up(int64_t x, int64_t by) { return (x + by - 1) / by; }

// Pieces of nearly equal extent, about `most` at most: multiples of `unit`, except for the last.
inline int64_t even_extent(int64_t n, int64_t most, int64_t unit) {
  return std::min(n, divide_up(divide_up(n, divide_up(n, most)), unit) * unit);
}

// The ways of the host. Operands are not empty and fit `problem`.
void multiply_by_onednn(const MatMul& product, const Problem& problem);  // fp32 and bf16
// Own kernels, which lay b out anew for each product. They add to fp32 only.
void multiply_by_avx512(const MatMul& product, const Problem& problem);  // fp32 and bf16, where isa() == Isa::kAvx512
void multiply_by_amx(const MatMul& product, const Problem& problem);     // fp32 and bf16, where isa() == Isa::kAmx

}  // namespace ropewalk::matmul
