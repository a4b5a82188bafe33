// The output head fused with its cross-entropy; all logits never stand in memory at once. The vocabulary may be cut over ranks, so it
// comes in two halves with a sum over ranks between them (parallel/: tp_vocabulary_sum):
//   scores = head_scores(x, weight, target, first_row)   over this rank's rows of weight
//   loss   = cross_entropy(scores, target)               after the halves of all ranks are joined
// x [.., D] rows of dtype T; weight [V_local, D] dtype T; target [..] int64 with kIgnored where nothing is scored (no work is done there).
// Logits are logit_scale * x . weight. Blocks of tokens times blocks of rows; the backward computes a block's logits again. Keeps x and the
// scores.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

constexpr int64_t kIgnored = -1;

struct HeadScores {
  Var log_sum_exp;   // [..] wide: log sum_v exp(logit_v) over the rows of weight, -infinity where it has none; 0 where ignored
  Var target_logit;  // [..] wide: the target's logit where its row is here, else 0
};
HeadScores head_scores(const Var& x, const Var& weight, const Tensor& target, int64_t first_row, double logit_scale = 1);

// sum over scored tokens of (log_sum_exp - target_logit), nats: one fp64 number.
Var cross_entropy(const HeadScores& scores, const Tensor& target);

// All tensors [..] of scores and targets are dense.
struct HeadScoresForward {
  const Tensor &log_sum_exp, &target_logit;
  const Tensor &x, &weight, &target;
  int64_t first_row;
  double logit_scale;
};
// d_logit(i, v) = exp(logit(i, v) - log_sum_exp(i)) * d_log_sum_exp(i) + [v is the target of i] * d_target_logit(i), 0 where i is ignored;
// dx = logit_scale * d_logit * weight; dweight += logit_scale * d_logit^T * x. Either may be empty.
struct HeadScoresBackward {
  const Tensor &dx, &dweight;
  const Tensor &d_log_sum_exp, &d_target_logit, &x, &weight, &target, &log_sum_exp;
  int64_t first_row;
  double logit_scale;
};
struct CrossEntropyForward {
  const Tensor& loss;
  const Tensor &log_sum_exp, &target_logit, &target;
};
// d_log_sum_exp = d_loss and d_target_logit = -d_loss where scored, else 0.
struct CrossEntropyBackward {
  const Tensor &d_log_sum_exp, &d_target_logit;
  const Tensor &d_loss, &target;
};
void launch(Cpu, const HeadScoresForward& args);
void launch(Cpu, const HeadScoresBackward& args);
void launch(Cpu, const CrossEntropyForward& args);
void launch(Cpu, const CrossEntropyBackward& args);
void launch(Cuda, const HeadScoresForward& args);
void launch(Cuda, const HeadScoresBackward& args);
void launch(Cuda, const CrossEntropyForward& args);
void launch(Cuda, const CrossEntropyBackward& args);
// One product over the scored tokens forward; backward computes it again and has two of its own. A GPU's tokens all count as scored:
// to count them would be to wait for it.
Effort effort(const HeadScoresForward& args);
Effort effort(const HeadScoresBackward& args);

}  // namespace ropewalk
