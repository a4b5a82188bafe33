#include "kernels/router/router.h"

namespace ropewalk {
namespace {

void check_logits(const char* op, const Var& logits) {
  expect(logits.data().rank() > 0 && logits.dim(-1) > 0 && logits.dtype() == wide(logits.dtype()),
         "{}: logits: expected fp32 or fp64 [.., experts], given {} {}", op, logits.dtype(), logits.shape());
}

void check_options(const RouterOptions& options, int64_t experts) {
  expect(options.top_k >= 1 && options.top_k <= experts, "route: top_k: expected 1 to {} (experts), given {}", experts, options.top_k);
  if (options.type == RouterType::kSigmoidTop1) expect(options.top_k == 1, "route: top_k: expected 1, given {}", options.top_k);
  if (options.type != RouterType::kSigmoidBias) return;
  expect(options.groups >= 1 && experts % options.groups == 0, "route: groups: expected a divisor of {} experts, given {}", experts,
         options.groups);
  expect(
      options.top_groups >= 1 && options.top_groups <= options.groups && options.top_k <= options.top_groups * (experts / options.groups),
      "route: top_groups: expected at most {} groups that hold {} experts or more, given {}", options.groups, options.top_k,
      options.top_groups);
}

}  // namespace

Routing route(const Var& logits, const RouterOptions& options, const Tensor& bias, const Tensor& assigned) {
  check_logits("route", logits);
  const int64_t experts = logits.dim(-1);
  check_options(options, experts);
  const Shape chosen = logits.shape().with(-1, options.top_k);
  expect(bool(bias) == (options.type == RouterType::kSigmoidBias) &&
             (!bias || (bias.shape() == Shape{experts} && bias.dtype() == logits.dtype())),
         "route: bias: expected {} [{}] for sigmoid_bias and none for others, given {}", logits.dtype(), experts,
         bias ? bias.shape() : Shape());
  expect(!assigned || (options.type == RouterType::kSigmoidTop1 && assigned.shape() == chosen && assigned.dtype() == DType::kInt64),
         "route: assigned: expected int64 {} for sigmoid_top1 and none for others, given {}", chosen,
         assigned ? assigned.shape() : Shape());
  const Tensor dense = logits.data().packed();
  const Tensor weight = Tensor::empty(chosen, dense.dtype(), dense.device()), expert = Tensor::empty(chosen, DType::kInt64, dense.device());
  launch(dense.device(), RouteForward{.weight = weight,
                                      .expert = expert,
                                      .logits = dense,
                                      .bias = bias,
                                      .assigned = assigned ? assigned.packed() : assigned,
                                      .options = options});
  const Var weights = record("route", {logits}, weight, [dense, expert, options](Backprop& b) {
    const Tensor dlogits = empty_like(dense);
    launch(dense.device(),
           RouteBackward{.dlogits = dlogits, .dweight = b.dy(0).packed(), .logits = dense, .expert = expert, .options = options});
    b.give(0, dlogits);
  });
  return {.weight = weights, .expert = expert};
}

Tensor expert_loads(const Tensor& expert_BSk, int64_t experts) {
  expect(expert_BSk.rank() == 3 && expert_BSk.dtype() == DType::kInt64, "expert_loads: expert: expected int64 [B, S, k], given {} {}",
         expert_BSk.dtype(), expert_BSk.shape());
  const Tensor load = Tensor::empty({expert_BSk.dim(0), experts}, DType::kFloat64, expert_BSk.device());
  launch(load.device(), ExpertLoads{.load_BE = load, .expert_BSk = expert_BSk.packed()});
  return load;
}

Var router_loss(const Var& logits_BSE, const Tensor& load_BE, const RouterLossOptions& options) {
  check_logits("router_loss", logits_BSE);
  expect(logits_BSE.data().rank() == 3, "router_loss: logits: expected [B, S, E], given {}", logits_BSE.shape());
  const Shape loads = {logits_BSE.dim(0), logits_BSE.dim(2)};
  expect(load_BE.shape() == loads && load_BE.dtype() == DType::kFloat64 && load_BE.contiguous(),
         "router_loss: load: expected dense fp64 {}, given {} {}", loads, load_BE.dtype(), load_BE.shape());
  expect(options.tokens >= logits_BSE.dim(1), "router_loss: tokens: expected at least {} (of logits {}), given {}", logits_BSE.dim(1),
         logits_BSE.shape(), options.tokens);
  const Tensor dense = logits_BSE.data().packed(), loss = Tensor::empty({1}, DType::kFloat64, dense.device());
  launch(dense.device(), RouterLossForward{.loss = loss, .logits_BSE = dense, .load_BE = load_BE, .options = options});
  return record("router_loss", {logits_BSE}, loss, [dense, load_BE, options](Backprop& b) {
    const Tensor dlogits = empty_like(dense);
    launch(dense.device(),
           RouterLossBackward{.dlogits_BSE = dlogits, .dloss = b.dy(0), .logits_BSE = dense, .load_BE = load_BE, .options = options});
    b.give(0, dlogits);
  });
}

}  // namespace ropewalk
