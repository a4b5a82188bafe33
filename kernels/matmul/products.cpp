#include "kernels/matmul/products.h"

namespace ropewalk::tile {
namespace {

// Room for a packed operand. It stays with the thread: tasks come by the thousand.
bfloat16* panels(std::vector<bfloat16>& room, int64_t extent, int64_t k) {
  const auto size = static_cast<size_t>(amx::packed_size(extent, k, 1)) + 32;
  if (room.size() < size) room.resize(size);
  const auto address = reinterpret_cast<uintptr_t>(room.data());
  return reinterpret_cast<bfloat16*>((address + 63) / 64 * 64);
}

const bfloat16* packed(int64_t m, int64_t k, Matrix<float> a) {
  thread_local std::vector<bfloat16> room;
  bfloat16* const to = panels(room, m, k);
  if (a.col == 1)
    amx::pack_a<1>(m, k, a.data, a.row, to);
  else
    amx::pack_a_transposed<1>(m, k, a.data, a.col, to);
  return to;
}

const bfloat16* packed(int64_t k, int64_t n, const float* b, int64_t ldb) {
  thread_local std::vector<bfloat16> room;
  bfloat16* const to = panels(room, n, k);
  amx::pack_b<1>(k, n, b, ldb, to);
  return to;
}

// Of smaller ones the packing costs more than the product (decoding, short documents).
bool pays_packing(int64_t m, int64_t n, int64_t k) { return m >= 16 && n >= 16 && k >= 16; }

}  // namespace

Products<bfloat16>::Products() {
  if (isa() == Isa::kAmx) tiles_.emplace();
}

void Products<bfloat16>::add(int64_t m, int64_t n, int64_t k, Matrix<float> a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  if (!tiles_ || !pays_packing(m, n, k)) return vectorized<multiply_add<float>>(m, n, k, a, b, ldb, c, ldc);
  amx::multiply<1>({.m = m, .n = n, .k = k, .a = packed(m, k, a), .b = packed(k, n, b, ldb), .sum = c, .sum_stride = ldc}, c, ldc);
}

void Products<bfloat16>::multiply(int64_t m, int64_t n, int64_t k, Matrix<float> a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  if (tiles_ && pays_packing(m, n, k))
    return amx::multiply<1>({.m = m, .n = n, .k = k, .a = packed(m, k, a), .b = packed(k, n, b, ldb)}, c, ldc);
  for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, 0.0f);
  vectorized<multiply_add<float>>(m, n, k, a, b, ldb, c, ldc);
}

}  // namespace ropewalk::tile
