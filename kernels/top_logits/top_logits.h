// For each scored token the largest logit, and which row of the head it belongs to: what the model would answer.
//   top_logit[i] = max_v x[i] . weight[v],   top_row[i] = first_row + the first v that reaches it
// x [.., D] dtype T; weight [V, D] dtype T; target [..] int64, dense; top_logit [..] wide; top_row [..] int64. Where the target is kIgnored
// no work is done: 0 and -1; where weight has no rows: -infinity and -1. Logits are those of head_scores with a scale of 1: a positive
// scale changes no order.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct TopLogits {
  const Tensor &top_logit, &top_row, &x, &weight, &target;
  int64_t first_row = 0;
};
void launch(Cpu, const TopLogits& args);
void launch(Cuda, const TopLogits& args);

}  // namespace ropewalk
