// The small products of a task (an SSD chunk, a block of attention) at this machine's speed: for bf16 operands on AMX tiles where there
// are any, else by tile::multiply_add in the wide type.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels/amx/amx.h"
#include "kernels/matmul/tile.h"
#include "kernels/tensor/dtype.h"

namespace ropewalk::tile {

// One a task, on the thread that runs it; none may live while a matrix product is launched (amx::Tiles).
template <class T>
class Products {
 public:
  using W = Wide<T>;

  // c [m, n] += a [m, k] b [k, n]; either the rows or the columns of a are dense. For T = bf16 on AMX a and b are rounded to bf16 first.
  void add(int64_t m, int64_t n, int64_t k, Matrix<W> a, const W* b, int64_t ldb, W* c, int64_t ldc) {
    vectorized<multiply_add<W>>(m, n, k, a, b, ldb, c, ldc);
  }
  // c = a b
  void multiply(int64_t m, int64_t n, int64_t k, Matrix<W> a, const W* b, int64_t ldb, W* c, int64_t ldc) {
    for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, W(0));
    add(m, n, k, a, b, ldb, c, ldc);
  }
};

template <>
class Products<bfloat16> {
 public:
  Products();

  void add(int64_t m, int64_t n, int64_t k, Matrix<float> a, const float* b, int64_t ldb, float* c, int64_t ldc);
  void multiply(int64_t m, int64_t n, int64_t k, Matrix<float> a, const float* b, int64_t ldb, float* c, int64_t ldc);

 private:
  std::optional<amx::Tiles> tiles_;  // where isa() == Isa::kAmx
};

}  // namespace ropewalk::tile
