#include "layers/moe.h"

#include "kernels/experts/experts.h"
#include "kernels/linear/linear.h"
#include "kernels/router_logits/router_logits.h"
#include "kernels/row_gate/row_gate.h"
#include "kernels/sinkhorn/sinkhorn.h"
#include "kernels/views/views.h"
#include "kernels/weighted_sum/weighted_sum.h"
#include "parallel/context_parallel/sequence_statistics.h"

// B batch, S sequence, D model, E experts, k slots, F hidden; A = B S k assignments.
namespace ropewalk {
namespace {

// bias_e += rate sign(mean load - load_e) (DeepSeek-V3, arXiv 2412.19437, 2.1.2): an expert with too little to do gets easier to choose.
// Loads are whole numbers, so that E load_e against their sum is exact.
void balance(const Tensor& bias, const Tensor& load, double rate) {
  const auto loads = load.to_vector<double>();
  double sum = 0;
  for (const double count : loads) sum += count;
  const Tensor there = bias.to(Device());
  dispatch_float(bias.dtype(), [&]<class T>(std::type_identity<T>) {
    T* const b = there.data<T>();
    for (size_t e = 0; e < loads.size(); ++e) {
      const double missing = sum - static_cast<double>(loads.size()) * loads[e];
      if (missing != 0) b[e] = T(static_cast<Wide<T>>(b[e]) + static_cast<Wide<T>>(missing > 0 ? rate : -rate));
    }
  });
  if (bias.device().is_cuda()) bias.copy_from(there);
}

}  // namespace

Moe::Moe(const MoeOptions& options, const BuildContext& build, const TensorParallel& tp, const ExpertParallel& ep)
    : options_(options), build_(build), tp_(tp), ep_(ep) {
  if (!options.shared) return;
  shared_.emplace(MlpOptions{.hidden = options.shared->hidden, .act = options.act, .gated = options.gated}, build, tp, Kind::kMoe);
}

void Moe::declare(Declarations& declarations, const std::string& name) {
  const Init in = build_.linear_init(build_.input);
  const auto part = [&](const std::string& part_name, const Shape& shape, Role role, const Init& init) {
    return declarations.declare({.name = name + "." + part_name,
                                 .shape = shape,
                                 .kind = Kind::kMoe,
                                 .role = role,
                                 .init = init,
                                 .owed_over_tensor = declarations.sequence_parallel()});
  };
  router_ = part("router", {options_.experts, build_.input}, Role::kRouter, in);
  if (options_.router_bias) router_bias_ = part("router_bias", {options_.experts}, Role::kRouterBias, {});
  declare_experts(declarations, name + ".experts");
  if (shared_) shared_->declare(declarations, name + ".shared");
  if (options_.shared && options_.shared->gated) shared_gate_ = part("shared_gate", {1, build_.input}, Role::kWeight, in);

  load_ = declarations.declare_tally(name + ".load", options_.experts);
  if (options_.router.type != RouterType::kSigmoidBias) return;
  balance_bias_ = declarations.declare_buffer(
      {.name = name + ".balance_bias",
       .shape = {options_.experts},
       .update = [load = load_, rate = options_.bias_update](const Tensor& bias) { balance(bias, load->counts, rate); }});
}

void Moe::declare_experts(Declarations& declarations, const std::string& name) {
  const int64_t experts = options_.experts, hidden = options_.hidden, input = build_.input;
  const auto part = [&](const std::string& part_name, const Shape& shape, int hidden_dim, const Init& init) {
    return declarations.declare({.name = name + "." + part_name,
                                 .shape = shape,
                                 .kind = Kind::kMoe,
                                 .init = init,
                                 .split = ep_.cut_hidden ? std::optional(Split{hidden_dim, hidden}) : std::nullopt,
                                 .by_expert = true,
                                 .owed_over_tensor = declarations.sequence_parallel(),
                                 .active = static_cast<double>(options_.router.top_k) / static_cast<double>(experts)});
  };
  const Init in = build_.linear_init(input);
  up_ = options_.gated ? part("gate_up", {experts, 2, hidden, input}, 2, in) : part("up", {experts, hidden, input}, 1, in);
  down_ = part("down", {experts, build_.output, hidden}, 2, build_.output_init(hidden));
}

// Sinkhorn's choice for this rank's tokens. Kept for a replay: it came from the other ranks' tokens too.
Tensor Moe::assigned(const Var& logits_BSE, const Context& ctx) const {
  if (options_.router.type != RouterType::kSigmoidTop1 || !ctx.training) return {};
  const auto assign = [&] {
    const Tensor all = gather_sequence(logits_BSE.data(), ctx).packed();
    const Tensor expert_BT = Tensor::empty(all.shape().first(2), DType::kInt64, all.device());
    launch(all.device(), Sinkhorn{.expert_BT = expert_BT, .logits_BTE = all, .iterations = options_.sinkhorn});
    const int64_t length = logits_BSE.dim(1);
    return Tensors{expert_BT.narrow(1, ctx.cp.slices.rank() * length, length).packed()};
  };
  return ctx.receive(assign).front().reshape(logits_BSE.shape().with(-1, 1));
}

void Moe::account(const Var& logits_BSE, const Tensor& expert_BSk, Carry& carry, const Context& ctx) const {
  const Tensor load_BE = expert_loads(expert_BSk, options_.experts);
  if (ctx.counting()) {
    const Tensor counted_BE = load_BE.to(Device());
    for (int64_t row = 0; row < counted_BE.dim(0); ++row) load_->counts.add(counted_BE.select(0, row));
  }
  if (options_.balance == 0 && options_.z == 0) return;
  carry.losses.push_back(
      router_loss(logits_BSE, sum_over_sequence(load_BE, ctx),
                  {.type = options_.router.type, .tokens = sequence_length(ctx), .balance = options_.balance, .z = options_.z}));
}

Var Moe::through_experts(const Var& u_BSD, const Tensor& expert_BSk, const Var& weight_BSk, const Context& ctx) const {
  const auto plan = plan_experts(expert_BSk, options_.experts);
  const ExpertRoute route = route_experts(plan, ep_.group, ctx);
  const Var up_AF = expert_linear(ep_dispatch(dispatch_tokens(u_BSD, plan), route, ctx), up_, route.here);
  Var act_AF;
  if (options_.gated) {
    const int64_t hidden = up_AF.dim(-1) / 2;
    const Vars halves = split_last(up_AF, {hidden, hidden});
    act_AF = gated_activation(halves[0], halves[1], options_.act);
  } else {
    act_AF = activation(up_AF, options_.act);
  }
  return combine_tokens(ep_return(expert_linear(act_AF, down_, route.here), route, ctx), weight_BSk, plan);
}

Var Moe::mix(const Var& u_BSD, const Routing& routing, const Context& ctx) const {
  if (!ep_.cut_hidden) return through_experts(u_BSD, routing.expert, routing.weight, ctx);
  // Every tensor rank takes all tokens through its part of each expert.
  return tp_leave(through_experts(tp_enter(u_BSD, tp_), tp_enter(routing.expert, tp_).data(), tp_enter(routing.weight, tp_), ctx), tp_);
}

Var Moe::forward(const Var& u_BSD, Carry& carry, const Context& ctx) const {
  const Var logits_BSE = router_logits(u_BSD, router_, router_bias_);
  const Tensor balance_bias = balance_bias_ ? balance_bias_->value : Tensor();
  const Routing routing = route(logits_BSE, options_.router, balance_bias, assigned(logits_BSE, ctx));
  if (ctx.training) account(logits_BSE, routing.expert, carry, ctx);
  const Var mixed_BSD = mix(u_BSD, routing, ctx);
  if (!shared_) return mixed_BSD;
  const Var shared_BSD = shared_->forward(u_BSD, carry, ctx);
  return add(mixed_BSD, shared_gate_ ? row_gate(shared_BSD, linear(u_BSD, shared_gate_)) : shared_BSD);
}

Cost Moe::cost(const TokenShape& shape) const {
  const int64_t expert = options_.hidden * ((options_.gated ? 2 : 1) * build_.input + build_.output);
  const int64_t router = (options_.experts + (shared_gate_ ? 1 : 0)) * build_.input;
  const int64_t weights = router + options_.router.top_k * expert;
  Cost cost{.flops = 2 * shape.tokens() * static_cast<double>(weights)};
  if (shared_) cost += shared_->cost(shape);
  return cost;
}

}  // namespace ropewalk
