// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps), over the last dim (Zhang & Sennrich 2019).
// x [.., C] rows of any floating dtype; weight [C] in the wide type; y in dtype `out`; statistics in the wide type. Keeps x and rstd.
// With `zero_centered` the factor is 1 + weight. Where weight is shorter, [P] with P dividing C, each P neighbouring channels are a row of
// their own: heads side by side that share a weight.
// fp64 stays among itself: x and y are both fp64 or neither is.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var rms_norm(const Var& x, const Var& weight, double eps, DType out, bool zero_centered = false);

struct RmsNormForward {
  const Tensor &y, &rstd;  // rstd [.., C / P]
  const Tensor &x, &weight;
  double eps;
};
// With h = x * rstd: dx = rstd * (dy * weight - h * mean(dy * weight * h)); dweight += sum over rows of dy * h. Gradients may be empty.
struct RmsNormBackward {
  const Tensor& dx;
  bool accumulate = false;  // dx +=
  const Tensor& dweight;
  const Tensor &dy, &x, &weight, &rstd;
};
void launch(Cpu, const RmsNormForward& args);
void launch(Cpu, const RmsNormBackward& args);
void launch(Cuda, const RmsNormForward& args);
void launch(Cuda, const RmsNormBackward& args);

}  // namespace ropewalk
