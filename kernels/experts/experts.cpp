#include "kernels/experts/experts.h"

namespace ropewalk {
namespace {

double multiply_adds(const Tensor& rows, int64_t width) { return static_cast<double>(rows.numel() * width); }

Tensor as_rows(const Tensor& x) { return is_rows(x) ? x : x.contiguous_copy(); }

}  // namespace

std::shared_ptr<const ExpertPlan> plan_experts(const Tensor& expert, int64_t experts) {
  expect(expert.rank() > 0 && expert.dim(-1) > 0 && expert.dtype() == DType::kInt64,
         "plan_experts: expert: expected int64 [.., k], given {} {}", expert.dtype(), expert.shape());
  const Tensor dense = expert.packed();
  const int64_t n = dense.numel(), k = dense.dim(-1);
  auto plan = std::make_shared<ExpertPlan>();
  plan->tokens = dense.shape().first(dense.rank() - 1);
  plan->top_k = k;
  plan->begin.resize(static_cast<size_t>(experts) + 1);
  plan->token = Tensor::empty({n}, DType::kInt64, dense.device());
  plan->row = Tensor::empty({n / k, k}, DType::kInt64, dense.device());

  launch(dense.device(), SortByExpert{.begin = plan->begin, .token = plan->token, .row = plan->row, .expert = dense});
  if (plan->rows() < n)
    for (const int64_t e : dense.to_vector<int64_t>())
      expect(e >= 0 && e < experts, "plan_experts: expert: expected 0 to {}, given {}", experts - 1, e);
  return plan;
}

Var dispatch_tokens(const Var& x, const std::shared_ptr<const ExpertPlan>& plan) {
  expect(x.data().rank() > 0 && x.shape().first(x.data().rank() - 1) == plan->tokens && is_rows(x.data()),
         "dispatch_tokens: x: expected rows {} x [D], given {}", plan->tokens, x.shape());
  const Tensor rows = Tensor::empty({plan->rows(), x.dim(-1)}, x.dtype(), x.data().device());
  launch(rows.device(), ScatterTokens{.rows = rows, .x = x.data(), .plan = *plan});
  return record("dispatch_tokens", {x}, rows, [plan, shape = x.shape()](Backprop& b) {
    const Tensor drows = as_rows(b.dy(0)), dx = Tensor::empty(shape, drows.dtype(), drows.device());
    launch(dx.device(), GatherSum{.y = dx, .rows = drows, .weight = {}, .plan = *plan});
    b.give(0, dx);
  });
}

Var expert_linear(const Var& rows, const Var& weight, const std::shared_ptr<const ExpertPlan>& plan) {
  const int64_t experts = plan->experts(), terms = rows.dim(-1);
  expect(rows.data().rank() == 2 && rows.dim(0) == plan->rows() && is_rows(rows.data()), "expert_linear: rows: expected [{}, K], given {}",
         plan->rows(), rows.shape());
  expect(weight.data().rank() >= 3 && weight.dim(0) == experts && weight.dim(-1) == terms && weight.dtype() == rows.dtype(),
         "expert_linear: weight: expected {} [{}, .., {}] (rows {}), given {} {}", rows.dtype(), experts, terms, rows.shape(),
         weight.dtype(), weight.shape());
  const int64_t width = weight.data().numel() / std::max<int64_t>(1, experts * terms);
  const Tensor y = Tensor::empty({plan->rows(), width}, rows.dtype(), rows.data().device());
  launch(y.device(), ExpertLinearForward{.y = y, .rows = rows.data(), .weight = weight.data(), .plan = *plan});
  return record("expert_linear", {rows, weight}, y, [x = rows.data(), weight, plan](Backprop& b) {
    const Tensor dy = as_rows(b.dy(0));
    if (b.wanted(0)) {
      const Tensor dx = empty_like(x);
      launch(dx.device(), ExpertLinearBackwardInput{.drows = dx, .dy = dy, .weight = weight.data(), .plan = *plan});
      b.give(0, dx);
    }
    if (b.wanted(1))
      b.later([x, weight, dy, plan](Backprop& later) {
        launch(x.device(), ExpertLinearBackwardWeight{.dweight = later.sum_into(weight), .dy = dy, .rows = x, .plan = *plan});
      });
  });
}

Var combine_tokens(const Var& rows, const Var& weight, const std::shared_ptr<const ExpertPlan>& plan) {
  expect(rows.data().rank() == 2 && rows.dim(0) == plan->rows() && is_rows(rows.data()), "combine_tokens: rows: expected [{}, D], given {}",
         plan->rows(), rows.shape());
  const DType dtype = wide(rows.dtype());
  const Shape slots = plan->tokens.then({plan->top_k});
  expect(weight.shape() == slots && weight.dtype() == dtype, "combine_tokens: weight: expected {} {}, given {} {}", dtype, slots,
         weight.dtype(), weight.shape());
  const Tensor w = weight.data().packed();
  const Tensor y = Tensor::empty(plan->tokens.then({rows.dim(-1)}), rows.dtype(), rows.data().device());
  launch(y.device(), GatherSum{.y = y, .rows = rows.data(), .weight = w, .plan = *plan});
  return record("combine_tokens", {rows, weight}, y, [x = rows.data(), w, plan](Backprop& b) {
    const Tensor drows = Tensor::empty(x.shape(), x.dtype(), x.device()), dweight = empty_like(w);
    launch(x.device(), CombineBackward{.drows = drows, .dweight = dweight, .dy = as_rows(b.dy(0)), .rows = x, .weight = w, .plan = *plan});
    b.give(0, drows);
    b.give(1, dweight);
  });
}

Effort effort(const ExpertLinearForward& args) { return {.flops = 2 * multiply_adds(args.rows, args.y.dim(-1))}; }
Effort effort(const ExpertLinearBackwardInput& args) { return {.flops = 2 * multiply_adds(args.dy, args.drows.dim(-1))}; }
Effort effort(const ExpertLinearBackwardWeight& args) { return {.flops = 2 * multiply_adds(args.rows, args.dy.dim(-1))}; }

}  // namespace ropewalk
