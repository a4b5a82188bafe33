// c = op(a) op(b), or c += op(a) op(b) where `accumulate`; op transposes where asked. Operands are rows of one stride (tensor.h): all dims
// but the last fold into one. a and b have one dtype, c has that or its wide type; sums are kept in the wide type.
#pragma once

#include <algorithm>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct MatMul {
  const Tensor& c;
  const Tensor& a;
  bool transpose_a = false;
  const Tensor& b;
  bool transpose_b = false;
  bool accumulate = false;
};
void launch(Cpu, const MatMul& product);
void launch(Cuda, const MatMul& product);
inline Effort effort(const MatMul& p) {
  const double results = static_cast<double>(p.c.numel()),
               inner = static_cast<double>(p.a.numel() / std::max<int64_t>(1, p.c.numel() / p.c.dim(-1)));
  return {.flops = 2 * results * inner, .bytes = static_cast<double>(p.a.bytes() + p.b.bytes() + p.c.bytes() * (p.accumulate ? 2 : 1))};
}

}  // namespace ropewalk
