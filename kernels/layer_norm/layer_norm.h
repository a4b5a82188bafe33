// y = (x - mean) * rstd * weight + bias,  rstd = 1 / sqrt(var + eps), mean and variance over the last dim (Ba, Kiros & Hinton 2016).
// x [.., C] rows of any floating dtype; weight, bias [C] in the wide type; y in dtype `out`; statistics in the wide type. Keeps x, mean
// and rstd. fp64 stays among itself: x and y are both fp64 or neither is.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps, DType out);

struct LayerNormForward {
  const Tensor &y, &mean, &rstd;  // mean, rstd [..]
  const Tensor &x, &weight, &bias;
  double eps;
};
// With h = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - h * mean(g * h)); dweight += sum over rows of dy * h,
// dbias += sum over rows of dy. Each may be empty.
struct LayerNormBackward {
  const Tensor& dx;
  bool accumulate = false;  // dx +=
  const Tensor &dweight, &dbias;
  const Tensor &dy, &x, &weight, &mean, &rstd;
};
void launch(Cpu, const LayerNormForward& args);
void launch(Cpu, const LayerNormBackward& args);
void launch(Cuda, const LayerNormForward& args);
void launch(Cuda, const LayerNormBackward& args);

}  // namespace ropewalk
