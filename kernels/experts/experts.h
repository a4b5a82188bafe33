// The way of tokens through a mixture of experts, without capacity: every assignment is computed.
//
//   rows = dispatch_tokens(x, plan)             each assignment's token, in the order of experts: [A, D], A = tokens x k
//   h    = expert_linear(rows, weight, plan)    rows of expert e times weight[e]^T
//   y    = combine_tokens(h, w, plan)           y_t = sum_j w_tj h[row of (t, j)]
//
// Sums run in a fixed order: the same bits on any number of threads.
#pragma once

#include <memory>

#include "kernels/autograd/tape.h"

namespace ropewalk {

// Who goes where. Rows are sorted by expert, then by token, then by slot; expert e has the rows [begin[e], begin[e + 1]), maybe none.
struct ExpertPlan {
  Shape tokens;  // of the tokens: [B, S]
  int64_t top_k = 1;
  std::vector<int64_t> begin;  // E + 1
  Tensor token;                // [A] int64: the token of a row, counted through [B, S]
  Tensor row;                  // [tokens, k] int64: the row of a token's slot

  int64_t experts() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t rows() const { return begin.back(); }
};
// expert [.., k] int64 in [0, experts). On a GPU it waits for the kernels launched so far, and `begin` comes to the host, which must know
// it to size the experts' products: the one place where a mixture of experts waits.
std::shared_ptr<const ExpertPlan> plan_experts(const Tensor& expert, int64_t experts);

// x [tokens.., D] rows -> [A, D]. Backward: dx_t = sum_j drows[row of (t, j)].
Var dispatch_tokens(const Var& x, const std::shared_ptr<const ExpertPlan>& plan);

// rows [A, K] dtype T, weight [E, .., K] dtype T, whose middle dims count N in all -> [A, N].
// Backward: drows; dweight in the wide type, deferrable. Keeps rows.
Var expert_linear(const Var& rows, const Var& weight, const std::shared_ptr<const ExpertPlan>& plan);

// rows [A, D] dtype T, weight [tokens.., k] wide -> [tokens.., D] dtype T. Keeps rows and weight.
Var combine_tokens(const Var& rows, const Var& weight, const std::shared_ptr<const ExpertPlan>& plan);

// The plan's begin, token and row, from each assignment's expert. Those in no such expert come last and are not counted.
struct SortByExpert {
  std::vector<int64_t>& begin;  // E + 1, of any contents
  const Tensor &token, &row;
  const Tensor& expert;  // [.., k] dense
};
// y = rows of expert e times weight[e]^T; weight [E, .., K] as matrices [N, K].
struct ExpertLinearForward {
  const Tensor& y;  // [A, N] dense
  const Tensor &rows, &weight;
  const ExpertPlan& plan;
};
// drows = dy of expert e times weight[e].
struct ExpertLinearBackwardInput {
  const Tensor& drows;  // [A, K] dense
  const Tensor &dy, &weight;
  const ExpertPlan& plan;
};
// dweight[e] += dy^T rows of expert e.
struct ExpertLinearBackwardWeight {
  const Tensor& dweight;
  const Tensor &dy, &rows;
  const ExpertPlan& plan;
};
// y_t = sum_j weight_tj rows[row_tj], weight 1 where it is empty.
struct GatherSum {
  const Tensor& y;     // [tokens.., D] dense
  const Tensor& rows;  // [A, D]
  const Tensor& weight;
  const ExpertPlan& plan;
};
// rows[a] = x[token of a].
struct ScatterTokens {
  const Tensor& rows;  // [A, D] dense
  const Tensor& x;
  const ExpertPlan& plan;
};
// drows[row_tj] = weight_tj dy_t; dweight_tj = <dy_t, rows[row_tj]>.
struct CombineBackward {
  const Tensor &drows, &dweight;
  const Tensor &dy, &rows, &weight;
  const ExpertPlan& plan;
};
void launch(Cpu, const SortByExpert& args);
void launch(Cpu, const ExpertLinearForward& args);
void launch(Cpu, const ExpertLinearBackwardInput& args);
void launch(Cpu, const ExpertLinearBackwardWeight& args);
void launch(Cpu, const GatherSum& args);
void launch(Cpu, const ScatterTokens& args);
void launch(Cpu, const CombineBackward& args);
void launch(Cuda, const SortByExpert& args);
void launch(Cuda, const ExpertLinearForward& args);
void launch(Cuda, const ExpertLinearBackwardInput& args);
void launch(Cuda, const ExpertLinearBackwardWeight& args);
void launch(Cuda, const GatherSum& args);
void launch(Cuda, const ScatterTokens& args);
void launch(Cuda, const CombineBackward& args);

// Each assignment meets one expert's matrix.
Effort effort(const ExpertLinearForward& args);
Effort effort(const ExpertLinearBackwardInput& args);
Effort effort(const ExpertLinearBackwardWeight& args);

}  // namespace ropewalk
