#include "kernels/experts/experts.h"

#include "kernels/matmul/matmul.h"

namespace ropewalk {
namespace {

// weight[e] as the matrix [N, K].
Tensor matrix_of(const Tensor& weight, int64_t expert) {
  const Tensor one = weight.select(0, expert);
  return one.reshape({one.numel() / one.dim(-1), one.dim(-1)});
}

// Calls work(expert, rows' begin, rows' count) for each expert that has any. One after the other: a product is parallel by itself.
template <class Work>
void for_each_expert(const ExpertPlan& plan, const Work& work) {
  for (int64_t e = 0; e < plan.experts(); ++e)
    if (plan.begin[e + 1] > plan.begin[e]) work(e, plan.begin[e], plan.begin[e + 1] - plan.begin[e]);
}

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
  for_each_expert(*plan, [&](int64_t e, int64_t begin, int64_t count) {
    const Tensor c = y.narrow(0, begin, count), a = rows.data().narrow(0, begin, count), matrix = matrix_of(weight.data(), e);
    launch(y.device(), MatMul{.c = c, .a = a, .b = matrix, .transpose_b = true});
  });

  return record("expert_linear", {rows, weight}, y, [x = rows.data(), weight, plan](Backprop& b) {
    const Tensor dy = as_rows(b.dy(0));
    if (b.wanted(0)) {
      const Tensor dx = empty_like(x);
      for_each_expert(*plan, [&](int64_t e, int64_t begin, int64_t count) {
        const Tensor c = dx.narrow(0, begin, count), a = dy.narrow(0, begin, count), matrix = matrix_of(weight.data(), e);
        launch(dx.device(), MatMul{.c = c, .a = a, .b = matrix});
      });
      b.give(0, dx);
    }
    if (b.wanted(1))
      b.later([x, weight, dy, plan](Backprop& later) {
        for_each_expert(*plan, [&](int64_t e, int64_t begin, int64_t count) {
          const Tensor c = matrix_of(later.sum_into(weight), e), a = dy.narrow(0, begin, count), rows_of_expert = x.narrow(0, begin, count);
          launch(x.device(), MatMul{.c = c, .a = a, .transpose_a = true, .b = rows_of_expert, .accumulate = true});
        });
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

}  // namespace ropewalk
