// Depthwise causal convolution, then SiLU, over runs:
//   y[t, c] = silu(bias[c] + sum_{j < W} weight[c, j] * x[t - (W - 1) + j, c])
// where positions before the run come from `halo`, or are zero where the run opens a document.
//
// x [B, S, C] rows of dtype T (a slice of a fused projection is fine); weight [C, W] and bias [C] of dtype T; y [B, S, C] dense.
// halo [E, W - 1, C] of dtype T or empty: row e holds the W - 1 values before each run with run.enters == e, oldest first; values from
// before the document are zero there. An empty halo counts as zeros. Backward also gives the halo's gradient. Keeps x, weight, halo:
// what stands under the SiLU is computed again in backward.
#pragma once

#include "kernels/autograd/tape.h"
#include "kernels/tensor/runs.h"

namespace ropewalk {

Var causal_conv1d_silu(const Var& x, const Var& weight, const Var& bias, const Var& halo, const Runs& runs);

struct CausalConv1dForward {
  const Tensor& y;
  const Tensor &x, &weight, &bias, &halo;
  const Runs& runs;
};
void launch(Cpu, const CausalConv1dForward& args);
void launch(Cuda, const CausalConv1dForward& args);

struct CausalConv1dBackward {
  const Tensor& dx;                 // rows
  const Tensor& d_halo;             // added to, in the wide type; empty: not wanted
  const Tensor &d_weight, &d_bias;  // added to, in the wide type; empty: not wanted
  const Tensor& dy;
  const Tensor &x, &weight, &bias, &halo;
  const Runs& runs;
};
void launch(Cpu, const CausalConv1dBackward& args);
void launch(Cuda, const CausalConv1dBackward& args);

}  // namespace ropewalk
