// bf16 products on AMX tiles.
#include "kernels/amx/amx.h"
#include "kernels/matmul/blockwise.h"

namespace ropewalk::matmul {
namespace {

// Measured: a layer's product has many rows and streams them past columns of b that stay in L2 (1 MiB); a weight's gradient has long sums,
// and few large blocks keep down what is packed twice.
struct AmxKernel {
  using Packed = bfloat16;
  using Session = amx::Tiles;
  static constexpr int64_t kRows = amx::kPanel, kColumns = amx::kPanel;
  static constexpr int64_t kDepth = 512;  // a panel of a (32 KiB) stays in L1 while those of b pass by
  static constexpr int64_t kBlockRows = 256, kBlockColumns = 1024, kColumnsOfLongSums = 704, kRowsOfGradients = 512;

  static int64_t size_of_a(int64_t rows, int64_t k) { return amx::packed_size(rows, k); }
  static int64_t size_of_b(int64_t columns, int64_t k) { return amx::packed_size(columns, k); }

  static void pack_a(const Operand<bfloat16>& a, int64_t i, int64_t l, int64_t rows, int64_t k, bfloat16* to) {
    if (a.transpose)
      amx::pack_a_transposed(rows, k, a.data + l * a.stride + i, a.stride, to);
    else
      amx::pack_a(rows, k, a.data + i * a.stride + l, a.stride, to);
  }
  static void pack_b(const Operand<bfloat16>& b, int64_t l, int64_t j, int64_t k, int64_t columns, bfloat16* to) {
    if (b.transpose)
      amx::pack_b_transposed(k, columns, b.data + j * b.stride + l, b.stride, to);
    else
      amx::pack_b(k, columns, b.data + l * b.stride + j, b.stride, to);
  }

  template <class C>
  static void multiply(const Piece<bfloat16>& p, C* c, int64_t stride) {
    amx::multiply({.m = p.m, .n = p.n, .k = p.k, .a = p.a, .b = p.b, .sum = p.sum, .sum_stride = p.sum_stride}, c, stride);
  }
};

}  // namespace

void multiply_by_amx(const MatMul& product, const Problem& p) { multiply_blockwise<AmxKernel, bfloat16>(product, p); }

}  // namespace ropewalk::matmul
