// Operands of small products (an SSD chunk, a block of attention), laid out once and multiplied as often as needed. A way to lay them out,
// P, brings along:
//
//   P::Element                                           what an operand is laid out in
//   P::left_size(m, k), P::right_size(k, n)              elements that a [m, k] or b [k, n] takes; best aligned to 64 bytes
//   P::left(m, k, x, stride, to)                         a = x, rows `stride` apart, of the op's storage type or its wide type
//   P::left_transposed(m, k, x, stride, to)              a = x^T, x [k, m]
//   P::right(k, n, x, stride, to)                        b = x
//   P::right_transposed(k, n, x, stride, to)             b = x^T, x [n, k]
//   P::multiply(m, n, k, a, b, c, stride)                c = a b, wide
//   P::add(m, n, k, a, b, c, stride)                     c += a b
//   P::Session                                           lives while a task multiplies; none may while a matrix product is launched
//
// with_panels<T> picks the way for operands stored as T.
#pragma once

#include "kernels/amx/amx.h"
#include "kernels/matmul/tile.h"
#include "kernels/tensor/dtype.h"

namespace ropewalk {

// In the wide type, by vectors.
template <class W>
struct WidePanels {
  using Element = W;
  struct Session {};

  static int64_t left_size(int64_t m, int64_t k) { return m * k; }
  static int64_t right_size(int64_t k, int64_t n) { return k * n; }

  template <class X>
  static void left(int64_t m, int64_t k, const X* x, int64_t stride, W* to) {
    vectorized<tile::copy<X, W>>(m, k, x, stride, to, k);
  }
  template <class X>
  static void left_transposed(int64_t m, int64_t k, const X* x, int64_t stride, W* to) {
    tile::transpose(k, m, x, stride, to, k);
  }
  template <class X>
  static void right(int64_t k, int64_t n, const X* x, int64_t stride, W* to) {
    vectorized<tile::copy<X, W>>(k, n, x, stride, to, n);
  }
  template <class X>
  static void right_transposed(int64_t k, int64_t n, const X* x, int64_t stride, W* to) {
    tile::transpose(n, k, x, stride, to, n);
  }

  static void multiply(int64_t m, int64_t n, int64_t k, const W* a, const W* b, W* c, int64_t stride) {
    for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * stride, n, W(0));
    add(m, n, k, a, b, c, stride);
  }
  static void add(int64_t m, int64_t n, int64_t k, const W* a, const W* b, W* c, int64_t stride) {
    vectorized<tile::multiply_add<W>>(m, n, k, {a, k}, b, n, c, stride);
  }
};

// For AMX: bf16, or fp32 in planes of it.
template <int kPlanes>
struct TilePanels {
  using Element = bfloat16;
  using Session = amx::Tiles;

  static int64_t left_size(int64_t m, int64_t k) { return amx::packed_size(m, k, kPlanes); }
  static int64_t right_size(int64_t k, int64_t n) { return amx::packed_size(n, k, kPlanes); }

  template <class X>
  static void left(int64_t m, int64_t k, const X* x, int64_t stride, bfloat16* to) {
    amx::pack_a<kPlanes>(m, k, x, stride, to);
  }
  template <class X>
  static void left_transposed(int64_t m, int64_t k, const X* x, int64_t stride, bfloat16* to) {
    amx::pack_a_transposed<kPlanes>(m, k, x, stride, to);
  }
  template <class X>
  static void right(int64_t k, int64_t n, const X* x, int64_t stride, bfloat16* to) {
    amx::pack_b<kPlanes>(k, n, x, stride, to);
  }
  template <class X>
  static void right_transposed(int64_t k, int64_t n, const X* x, int64_t stride, bfloat16* to) {
    amx::pack_b_transposed<kPlanes>(k, n, x, stride, to);
  }

  static void multiply(int64_t m, int64_t n, int64_t k, const bfloat16* a, const bfloat16* b, float* c, int64_t stride) {
    amx::multiply<kPlanes>({.m = m, .n = n, .k = k, .a = a, .b = b}, c, stride);
  }
  static void add(int64_t m, int64_t n, int64_t k, const bfloat16* a, const bfloat16* b, float* c, int64_t stride) {
    amx::multiply<kPlanes>({.m = m, .n = n, .k = k, .a = a, .b = b, .sum = c, .sum_stride = stride}, c, stride);
  }
};

// Calls body(P{}). `small`: the products have so few rows that laying out for tiles costs more than it saves (decoding).
template <class T, class Body>
void with_panels(bool small, const Body& body) {
  if constexpr (!std::is_same_v<T, double>)
    if (isa() == Isa::kAmx && !small) return body(TilePanels < std::is_same_v<T, float> ? amx::kPlanesOfFp32 : amx::kPlanesOfBf16 > {});
  body(WidePanels<Wide<T>>{});
}

}  // namespace ropewalk
