// The moves of tensor (and sequence) parallelism, each named for what it means and each with its transpose as backward.
//
// Between tp_enter and tp_leave every tensor rank computes a part (its heads, its columns) for all tokens of the context slice. Outside,
// with `sequence`, a rank holds its slice of the tokens (dim 1); without it, all tokens, equal on every rank.
#pragma once

#include <map>

#include "kernels/cross_entropy/cross_entropy.h"
#include "parallel/comm/group.h"

namespace ropewalk {

struct TensorParallel {
  Group group;
  bool sequence = false;              // the residual stream is cut along the sequence
  std::map<int, Group> neighbours{};  // by size n, for each proper divisor n > 1 of the group's size: this rank's n neighbouring ranks,
                                      // which hold the same block where there are fewer blocks (B/C groups, kv heads) than ranks
  Group sharing(int ranks) const;     // those who share a block held by `ranks` ranks: itself, neighbours, or the whole group
};
TensorParallel make_tensor_parallel(const Group& group, bool sequence);  // collective

// x -> all tokens. Backward: each rank's gradient is an addend; summed, and cut again with `sequence`.
Var tp_enter(const Var& x_BSD, const TensorParallel& tp);
// y is this rank's addend of the true value -> the sum, cut along the sequence with `sequence`.
Var tp_leave(const Var& y_BSD, const TensorParallel& tp);
// s is this rank's addend of a statistic that each rank then uses for its own part. Forward and backward sum over `group`.
Var tp_sum_statistic(const Var& s, const Group& group);
// Joins the halves of a vocabulary cut over ranks: log_sum_exp over all, the one target logit. Every rank goes on with the same loss, which
// counts once; so the gradient that comes back is equal everywhere, and a rank's share of it is its softmax weight.
HeadScores tp_vocabulary_sum(const HeadScores& scores, const TensorParallel& tp);

// How many answers are right where each rank knows the best of its own rows of the vocabulary: for each answer the rank's best logit and,
// as 1 or 0, whether that row is right. The first of the largest logits decides. Equal on every rank.
int64_t tp_count_right(const Tensor& best, const Tensor& right, const TensorParallel& tp);

}  // namespace ropewalk
