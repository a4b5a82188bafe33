#include "kernels/matmul/problem.h"

namespace ropewalk::matmul {
namespace {

int64_t rows(const Tensor& x) { return x.shape().first(x.rank() - 1).numel(); }

}  // namespace

Problem problem_of(const MatMul& product) {
  const Tensor &a = product.a, &b = product.b, &c = product.c;
  expect(a.rank() > 0 && b.rank() > 0 && c.rank() > 0, "matmul: expected matrices, given {}, {} and {}", a.shape(), b.shape(), c.shape());
  const int64_t m = product.transpose_a ? a.dim(-1) : rows(a), k = product.transpose_a ? rows(a) : a.dim(-1);
  const int64_t n = product.transpose_b ? rows(b) : b.dim(-1), k_of_b = product.transpose_b ? b.dim(-1) : rows(b);
  expect(k == k_of_b, "matmul: b: expected {} terms a sum (a {}), given {}", k, a.shape(), b.shape());
  expect(rows(c) == m && c.dim(-1) == n, "matmul: c: expected [{}, {}], given {}", m, n, c.shape());
  expect(a.dtype() == b.dtype(), "matmul: b: expected {} (a's), given {}", a.dtype(), b.dtype());
  expect(c.dtype() == a.dtype() || c.dtype() == wide(a.dtype()), "matmul: c: expected {}, given {}", a.dtype(), c.dtype());
  return {.m = m,
          .n = n,
          .k = k,
          .a_stride = row_stride(a, "matmul: a"),
          .b_stride = row_stride(b, "matmul: b"),
          .c_stride = row_stride(c, "matmul: c"),
          .transpose_a = product.transpose_a,
          .transpose_b = product.transpose_b,
          .accumulate = product.accumulate,
          .in = a.dtype(),
          .out = c.dtype()};
}

}  // namespace ropewalk::matmul
