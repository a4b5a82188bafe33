// Mamba-2's gated norm (gate first) where every group of channels is whole on this rank: gated_rms_norm's two halves in one, which passes
// over its operands once.
//   u = y * silu(z),  out = u * rstd * weight,  rstd = 1 / sqrt(mean over a group of u^2 + eps)
// y, z [.., I] rows of dtype T, groups side by side; weight [I] wide; out [.., I] dtype T. Keeps y, z and rstd [.., groups] (wide), and
// computes u again in backward.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var gated_norm(const Var& y, const Var& z, const Var& weight, int64_t groups, double eps);

struct GatedNormForward {
  const Tensor &out, &rstd;
  const Tensor &y, &z, &weight;
  double eps;
};
// With c = rstd^2 * mean over a group of d_out weight u:  du = rstd * (d_out weight - u c),  dy = du silu(z),  dz = du y silu'(z);
// dweight += sum over rows of d_out u rstd.
struct GatedNormBackward {
  const Tensor &dy, &dz, &dweight;  // dweight may be empty
  const Tensor &d_out, &y, &z, &weight, &rstd;
};
void launch(Cpu, const GatedNormForward& args);
void launch(Cpu, const GatedNormBackward& args);
void launch(Cuda, const GatedNormForward& args);
void launch(Cuda, const GatedNormBackward& args);

}  // namespace ropewalk
