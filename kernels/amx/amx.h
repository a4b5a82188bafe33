// Products of bf16 and fp32 matrices on AMX tiles, for one thread and operands that fit its L2: what matrix products, SSD chunks and
// attention blocks are put together from. Everything here may be called only where isa() == Isa::kAmx.
//
//   c = a b + sum      a [m, k], b [k, n] in panels;  c [m, n] fp32 or bf16;  sum [m, n] fp32, may be c itself;  any m, n, k
//
// An element of c is one chain of fused multiply-adds in fp32 over pairs of terms, in the order of k, that starts from the element of sum:
// it depends neither on how c is cut into blocks nor on what stands beside it. Denormal terms count as zero.
//
// Planes: tiles multiply bf16 only. An fp32 operand is the sum of three planes of bf16: x rounded, what that left of x rounded, and what
// that left. They hold all 24 bits of its significand, and of the nine products of two operands' planes those three that are below 2^-24 of
// the result are left out (Henry, Tang, Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype for Higher-Precision
// Computations"). The result is as good as fp32's own and comes sooner, since tiles do 14 times the work of vectors. Beyond
// bf16's largest number, 3.39e38, and of an infinity it is NaN.
//
// Panels: a is cut into panels of 32 rows and b into panels of 32 columns; a panel is a row of steps of 32 terms, and a step is two tiles
// of 1 KiB for each plane. A tile of a holds 16 rows of 32 terms. A tile of b holds 16 rows, of which row p has terms 2p and 2p + 1 of 16
// columns, the two terms of a column side by side ("VNNI"). What lies beyond m, n or k is zero, so tails need no care. Step s of panel i
// begins at packed + (i * steps(k) + s) * kPlanes * kStep, plane p of it p * kStep further.
#pragma once

#include <cstdint>

#include "kernels/tensor/bfloat16.h"

namespace ropewalk::amx {

constexpr int64_t kPanel = 32, kTerms = 32;  // rows of a or columns of b in a panel, and terms in a step
constexpr int64_t kStep = kPanel * kTerms;   // elements of a plane of a step
constexpr int kPlanesOfBf16 = 1, kPlanesOfFp32 = 3;

constexpr int64_t panels(int64_t extent) { return (extent + kPanel - 1) / kPanel; }
constexpr int64_t steps(int64_t k) { return (k + kTerms - 1) / kTerms; }
// Elements that a [extent, k] or b [k, extent] takes in panels.
constexpr int64_t packed_size(int64_t extent, int64_t k, int planes) { return panels(extent) * steps(k) * kStep * planes; }

// Packing, from rows of bf16 or fp32 (in one plane: rounded, to nearest, ties to even). `stride` is that of the rows of x, in elements;
// `to` takes packed_size elements, best aligned to 64 bytes.
template <int kPlanes, class T>
void pack_a(int64_t m, int64_t k, const T* x, int64_t stride, bfloat16* to);  // a = x [m, k]
template <int kPlanes, class T>
void pack_a_transposed(int64_t m, int64_t k, const T* x, int64_t stride, bfloat16* to);  // a = x^T, x [k, m]
template <int kPlanes, class T>
void pack_b(int64_t k, int64_t n, const T* x, int64_t stride, bfloat16* to);  // b = x [k, n]
template <int kPlanes, class T>
void pack_b_transposed(int64_t k, int64_t n, const T* x, int64_t stride, bfloat16* to);  // b = x^T, x [n, k]

// While one lives, the calling thread's tiles are set up for multiply(). One a task: it costs some 100 cycles, and oneDNN sets tiles up for
// itself in each of its own kernels, so none may live while one of those is called.
class Tiles {
 public:
  Tiles();
  ~Tiles();
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

struct Product {
  int64_t m, n, k;
  const bfloat16 *a, *b;       // panels, both of kPlanes
  const float* sum = nullptr;  // null counts as zero
  int64_t sum_stride = 0;
};
// C is float or bfloat16 (rounded to nearest, ties to even). Rows of c whose stride is a multiple of 1 KiB or so fall into few sets of the
// L1 cache: pad a scratch matrix by 16 elements a row.
template <int kPlanes, class C>
void multiply(const Product& product, C* c, int64_t c_stride);

}  // namespace ropewalk::amx
