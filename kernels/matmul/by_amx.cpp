// Products on AMX tiles: of bf16, and of fp32 in planes of bf16.
#include "kernels/amx/amx.h"
#include "kernels/matmul/blockwise.h"

namespace ropewalk::matmul {
namespace {

// Measured: a layer's product has many rows and streams them past columns of b that stay in L2 (1 MiB); a weight's gradient has long sums,
// and few large blocks keep down what is packed twice.
template <class T>
struct AmxKernel {
  using Packed = bfloat16;
  using Session = amx::Tiles;
  static constexpr int kPlanes = std::is_same_v<T, float> ? amx::kPlanesOfFp32 : amx::kPlanesOfBf16;
  static constexpr int64_t kRows = amx::kPanel, kColumns = amx::kPanel;
  static constexpr int64_t kDepth = kPlanes == 1 ? 512 : 128;  // a panel of a (32 KiB) stays in L1 while those of b pass by
  static constexpr int64_t kBlockRows = 256, kBlockColumns = 1024, kColumnsOfLongSums = 704, kRowsOfGradients = 512;

  static int64_t size_of_a(int64_t rows, int64_t k) { return amx::packed_size(rows, k, kPlanes); }
  static int64_t size_of_b(int64_t columns, int64_t k) { return amx::packed_size(columns, k, kPlanes); }

  static void pack_a(const Operand<T>& a, int64_t i, int64_t l, int64_t rows, int64_t k, bfloat16* to) {
    if (a.transpose)
      amx::pack_a_transposed<kPlanes>(rows, k, a.data + l * a.stride + i, a.stride, to);
    else
      amx::pack_a<kPlanes>(rows, k, a.data + i * a.stride + l, a.stride, to);
  }
  static void pack_b(const Operand<T>& b, int64_t l, int64_t j, int64_t k, int64_t columns, bfloat16* to) {
    if (b.transpose)
      amx::pack_b_transposed<kPlanes>(k, columns, b.data + j * b.stride + l, b.stride, to);
    else
      amx::pack_b<kPlanes>(k, columns, b.data + l * b.stride + j, b.stride, to);
  }

  template <class C>
  static void multiply(const Piece<bfloat16>& p, C* c, int64_t stride) {
    amx::multiply<kPlanes>({.m = p.m, .n = p.n, .k = p.k, .a = p.a, .b = p.b, .sum = p.sum, .sum_stride = p.sum_stride}, c, stride);
  }
};

}  // namespace

void multiply_by_amx(const MatMul& product, const Problem& p) {
  if (p.in == DType::kFloat32)
    multiply_blockwise<AmxKernel<float>, float>(product, p);
  else
    multiply_blockwise<AmxKernel<bfloat16>, bfloat16>(product, p);
}

}  // namespace ropewalk::matmul
