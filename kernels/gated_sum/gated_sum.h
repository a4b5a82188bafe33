// A learned mixture of n >= 2 branches, channel by channel:
//   y = sum_k w_k x_k,  w = softmax over the branches of (logits_1, .., logits_{n-1}, 0).
// For two branches that is g x_1 + (1 - g) x_2 with g = sigmoid(logits), as in a highway or GRU gate. The last branch needs no logit of its
// own: a softmax does not see what is added to all.
// x_k [.., C], logits [.., (n - 1) C] (branch by branch), rows of dtype T; y dense, of dtype T; weights in the wide type. Keeps its inputs.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var gated_sum(const Var& logits, const Vars& x);

struct GatedSumForward {
  const Tensor &y, &logits;
  const Tensors& x;
};
// dx_k = w_k dy, dlogits_k = w_k dy (x_k - y).
struct GatedSumBackward {
  const Tensor& dlogits;
  const Tensors& dx;
  const Tensor &dy, &logits;
  const Tensors& x;
};
void launch(Cpu, const GatedSumForward& args);
void launch(Cpu, const GatedSumBackward& args);
void launch(Cuda, const GatedSumForward& args);
void launch(Cuda, const GatedSumBackward& args);

}  // namespace ropewalk
