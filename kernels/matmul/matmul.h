// c = op(a) op(b), or c += op(a) op(b) where `accumulate`; op transposes where asked. Operands are rows of one stride (tensor.h): all dims
// but the last fold into one. a and b have one dtype, c has that or its wide type; sums are kept in the wide type.
#pragma once

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

}  // namespace ropewalk
