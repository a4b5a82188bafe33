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
  dispatch_float(bias.dtype(), [&]<class T>(std::type_identity<T>) {
    T* const b = bias.data<T>();
    for (size_t e = 0; e < loads.size(); ++e) {
      const double missing = sum - static_cast<double>(loads.size()) * loads[e];
      if (missing != 0) b[e] = T(static_cast<Wide<T>>(b[e]) + static_cast<Wide<T>>(missing > 0 ? rate : -rate));
    }
  });
}

}  // namespace

Moe::Moe(const MoeOptions& options, const BuildContext& build, const TensorParallel& tp) : options_(options), build_(build) {
  if (!options.shared) return;
  shared_.emplace(MlpOptions{.hidden = options.shared->hidden, .act = options.act, .gated = options.gated}, build, tp, Kind::kMoe);
}

void Moe::declare(Declarations& declarations, const std::string& name) {
  const int64_t experts = options_.experts, hidden = options_.hidden, input = build_.input;
  const auto part = [&](const std::string& part_name, const Shape& shape, Role role, const Init& init, double active = 1) {
    return declarations.declare(ParameterSpec{.name = name + "." + part_name,
                                              .shape = shape,
                                              .kind = Kind::kMoe,
                                              .role = role,
                                              .init = init,
                                              .split = {},
                                              .owed_over_tensor = declarations.sequence_parallel(),
                                              .active = active});
  };
  const double chosen = static_cast<double>(options_.router.top_k) / static_cast<double>(experts);
  const Init in = build_.linear_init(input), out = build_.output_init(hidden);
  router_ = part("router", {experts, input}, Role::kRouter, in);
  if (options_.router_bias) router_bias_ = part("router_bias", {experts}, Role::kRouterBias, {});
  up_ = options_.gated ? part("experts.gate_up", {experts, 2, hidden, input}, Role::kWeight, in, chosen)
                       : part("experts.up", {experts, hidden, input}, Role::kWeight, in, chosen);
  down_ = part("experts.down", {experts, build_.output, hidden}, Role::kWeight, out, chosen);
  if (shared_) shared_->declare(declarations, name + ".shared");
  if (options_.shared && options_.shared->gated) shared_gate_ = part("shared_gate", {1, input}, Role::kWeight, in);

  load_ = declarations.declare_tally(name + ".load", experts);
  if (options_.router.type != RouterType::kSigmoidBias) return;
  balance_bias_ = declarations.declare_buffer(
      {.name = name + ".balance_bias", .shape = {experts}, .update = [load = load_, rate = options_.bias_update](const Tensor& bias) {
         balance(bias, load->counts, rate);
       }});
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
  if (ctx.counting())
    for (int64_t row = 0; row < load_BE.dim(0); ++row) load_->counts.add(load_BE.select(0, row));
  if (options_.balance == 0 && options_.z == 0) return;
  carry.losses.push_back(
      router_loss(logits_BSE, sum_over_sequence(load_BE, ctx),
                  {.type = options_.router.type, .tokens = sequence_length(ctx), .balance = options_.balance, .z = options_.z}));
}

Var Moe::mix(const Var& u_BSD, const Routing& routing) const {
  const auto plan = plan_experts(routing.expert, options_.experts);
  const Var up_AF = expert_linear(dispatch_tokens(u_BSD, plan), up_, plan);
  Var act_AF;
  if (options_.gated) {
    const Vars halves = split_last(up_AF, {options_.hidden, options_.hidden});
    act_AF = gated_activation(halves[0], halves[1], options_.act);
  } else {
    act_AF = activation(up_AF, options_.act);
  }
  return combine_tokens(expert_linear(act_AF, down_, plan), routing.weight, plan);
}

Var Moe::forward(const Var& u_BSD, Carry& carry, const Context& ctx) const {
  const Var logits_BSE = router_logits(u_BSD, router_, router_bias_);
  const Tensor balance_bias = balance_bias_ ? balance_bias_->value : Tensor();
  const Routing routing = route(logits_BSE, options_.router, balance_bias, assigned(logits_BSE, ctx));
  if (ctx.training) account(logits_BSE, routing.expert, carry, ctx);
  const Var mixed_BSD = mix(u_BSD, routing);
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
