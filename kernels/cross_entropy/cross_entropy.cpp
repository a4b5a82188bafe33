#include "kernels/cross_entropy/cross_entropy.h"

#include <algorithm>

namespace ropewalk {
namespace {
double scored(const Tensor& target) {
  if (target.device().is_cuda()) return static_cast<double>(target.numel());
  const int64_t* const ids = target.data<int64_t>();
  return static_cast<double>(target.numel() - std::count(ids, ids + target.numel(), kIgnored));
}
}  // namespace

HeadScores head_scores(const Var& x, const Var& weight, const Tensor& target, int64_t first_row, double logit_scale) {
  expect(is_rows(x.data()), "head_scores: x: expected rows [.., D] of one stride, given {}", x.shape());
  expect(weight.data().rank() == 2 && weight.dim(1) == x.dim(-1) && weight.dtype() == x.dtype(),
         "head_scores: weight: expected {} [*, {}] (last dim of x {}), given {} {}", x.dtype(), x.dim(-1), x.shape(), weight.dtype(),
         weight.shape());
  expect(target.shape() == x.shape().first(x.data().rank() - 1) && target.dtype() == DType::kInt64,
         "head_scores: target: expected int64 {}, given {} {}", x.shape().first(x.data().rank() - 1), target.dtype(), target.shape());
  const Tensor targets = target.packed();
  const Tensor log_sum_exp = Tensor::empty(target.shape(), wide(x.dtype()), x.data().device()), target_logit = empty_like(log_sum_exp);
  launch(target_logit.device(), HeadScoresForward{.log_sum_exp = log_sum_exp,
                                                  .target_logit = target_logit,
                                                  .x = x.data(),
                                                  .weight = weight.data(),
                                                  .target = targets,
                                                  .first_row = first_row,
                                                  .logit_scale = logit_scale});
  const auto rule = [x = x.data(), weight, targets, log_sum_exp, first_row, logit_scale](Backprop& b) {
    if (!b.wanted(0) && !b.wanted(1)) return;
    const auto packed = [&](const Tensor& dy) { return dy ? dy.packed() : zeros_like(log_sum_exp); };
    const Tensor dx = b.wanted(0) ? empty_like(x) : Tensor();
    launch(x.device(), HeadScoresBackward{.dx = dx,
                                          .dweight = b.wanted(1) ? b.sum_into(weight) : Tensor(),
                                          .d_log_sum_exp = packed(b.dy(0)),
                                          .d_target_logit = packed(b.dy(1)),
                                          .x = x,
                                          .weight = weight.data(),
                                          .target = targets,
                                          .log_sum_exp = log_sum_exp,
                                          .first_row = first_row,
                                          .logit_scale = logit_scale});
    b.give(0, dx);
  };
  const Vars scores = record("head_scores", {x, weight}, Tensors{log_sum_exp, target_logit}, rule);
  return {.log_sum_exp = scores[0], .target_logit = scores[1]};
}

Var cross_entropy(const HeadScores& scores, const Tensor& target) {
  const auto& [log_sum_exp, target_logit] = scores;
  expect(log_sum_exp.shape() == target.shape() && log_sum_exp.dtype() == wide(log_sum_exp.dtype()),
         "cross_entropy: log_sum_exp: expected fp32 or fp64 {} (shape of target), given {} {}", target.shape(), log_sum_exp.dtype(),
         log_sum_exp.shape());
  expect(target_logit.shape() == target.shape() && target_logit.dtype() == log_sum_exp.dtype(),
         "cross_entropy: target_logit: expected {} {} as log_sum_exp, given {} {}", log_sum_exp.dtype(), target.shape(),
         target_logit.dtype(), target_logit.shape());
  expect(target.dtype() == DType::kInt64, "cross_entropy: target: expected int64, given {}", target.dtype());
  const Tensor targets = target.packed(), loss = Tensor::empty({1}, DType::kFloat64, target.device());
  launch(loss.device(),
         CrossEntropyForward{
             .loss = loss, .log_sum_exp = log_sum_exp.data().packed(), .target_logit = target_logit.data().packed(), .target = targets});
  return record("cross_entropy", {log_sum_exp, target_logit}, loss, [targets, dtype = log_sum_exp.dtype()](Backprop& b) {
    const Tensor d_log_sum_exp = Tensor::empty(targets.shape(), dtype, targets.device()), d_target_logit = empty_like(d_log_sum_exp);
    launch(targets.device(),
           CrossEntropyBackward{.d_log_sum_exp = d_log_sum_exp, .d_target_logit = d_target_logit, .d_loss = b.dy(0), .target = targets});
    b.give(0, d_log_sum_exp);
    b.give(1, d_target_logit);
  });
}

Effort effort(const HeadScoresForward& args) {
  return {.flops = 2 * scored(args.target) * static_cast<double>(args.weight.numel()),
          .bytes = static_cast<double>(args.x.bytes() + args.weight.bytes())};
}

Effort effort(const HeadScoresBackward& args) {
  const int products = 1 + (args.dx ? 1 : 0) + (args.dweight ? 1 : 0);
  return {.flops = 2 * products * scored(args.target) * static_cast<double>(args.weight.numel()),
          .bytes = static_cast<double>(2 * args.x.bytes() + args.weight.bytes() + (args.dweight ? 2 * args.dweight.bytes() : 0))};
}

}  // namespace ropewalk
