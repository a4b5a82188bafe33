// Mamba-2's gated norm: u = y * silu(z), out = u * weight / sqrt(s / group_width + eps), where s is over a group
//   gate first   the sum of u^2: the norm of what is gated
//   norm first   the sum of y^2: the norm of y, then gated
//
// A group may be wider than what this rank holds, so the op comes in two halves and the caller sums the middle over the ranks that
// share a group:
//   s   = gated_square_sum(y, z, groups), or square_sum(y, groups)   [.., groups], wide: over each local group's channels
//   out = gated_rms_norm(y, z, weight, s, group_width, eps)      group_width: channels of a whole group, on all its ranks
// y, z [.., I] rows (z may be a slice of a fused projection), dtype T; weight [I] wide; out dtype T.
// Both halves keep y and z and compute u again in backward.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var gated_square_sum(const Var& y, const Var& z, int64_t groups);
Var square_sum(const Var& y, int64_t groups);
Var gated_rms_norm(const Var& y, const Var& z, const Var& weight, const Var& square_sum, int64_t group_width, double eps);

struct GatedSquareSumForward {
  const Tensor& square_sum;
  const Tensor &y, &z;
};
// du = 2 u d_square_sum; dy = du silu(z), dz = du y silu'(z).
struct GatedSquareSumBackward {
  const Tensor &dy, &dz;
  const Tensor &d_square_sum, &y, &z;
};
struct SquareSumForward {
  const Tensor &square_sum, &y;
};
// dy = 2 y d_square_sum.
struct SquareSumBackward {
  const Tensor &dy, &d_square_sum, &y;
};
struct GatedRmsNormForward {
  const Tensor& out;
  const Tensor &y, &z, &weight, &square_sum;
  int64_t group_width;
  double eps;
};
// With r = 1 / sqrt(square_sum / group_width + eps) held fixed: du = d_out weight r; dweight += sum over rows of d_out u r.
// Through r: d_square_sum = -r^3 / (2 group_width) * sum over the group's channels of d_out weight u.
struct GatedRmsNormBackward {
  const Tensor &dy, &dz, &dweight, &d_square_sum;  // dweight may be empty
  const Tensor &d_out, &y, &z, &weight, &square_sum;
  int64_t group_width;
  double eps;
};
void launch(Cpu, const GatedSquareSumForward& args);
void launch(Cpu, const GatedSquareSumBackward& args);
void launch(Cpu, const SquareSumForward& args);
void launch(Cpu, const SquareSumBackward& args);
void launch(Cpu, const GatedRmsNormForward& args);
void launch(Cpu, const GatedRmsNormBackward& args);
void launch(Cuda, const GatedSquareSumForward& args);
void launch(Cuda, const GatedSquareSumBackward& args);
void launch(Cuda, const SquareSumForward& args);
void launch(Cuda, const SquareSumBackward& args);
void launch(Cuda, const GatedRmsNormForward& args);
void launch(Cuda, const GatedRmsNormBackward& args);

}  // namespace ropewalk
