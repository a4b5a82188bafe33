#include "layers/mamba2.h"

#include "kernels/causal_conv1d/causal_conv1d.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/gated_rms_norm/gated_rms_norm.h"
#include "kernels/linear/linear.h"
#include "kernels/scale_segments/scale_segments.h"
#include "kernels/ssd/ssd.h"
#include "kernels/views/views.h"
#include "layers/health.h"
#include "parallel/context_parallel/context_parallel.h"

// B batch, S sequence, D model; on this rank: I inner = H heads * P head_dim, G groups, N state, M = G * N, C = I + 2M conv channels.
namespace ropewalk {
namespace {
constexpr std::array<double, 2> kNoLimit = {0, std::numeric_limits<double>::infinity()};
constexpr int kHaloSlot = 0, kStateSlot = 1;
}  // namespace

Mamba2::Mamba2(const Mamba2Options& options, const BuildContext& build, const TensorParallel& tp)
    : options_(options), build_(build), tp_(tp) {
  const int rank = tp.group.rank(), ranks = tp.group.size();
  heads_ = local_range(options.heads, Split{0, options.heads}, rank, ranks).length;
  groups_ = local_range(options.groups, Split{0, options.groups}, rank, ranks).length;
  norm_group_ = options.gate_norm.group == GateNormOptions::kAll ? tp.group : tp.sharing(replicas(Split{0, options.groups}, ranks));
}

void Mamba2::declare(Declarations& declarations, const std::string& name) {
  const int64_t inner = options_.heads * options_.head_dim, bc = options_.groups * options_.state;
  const Split by_head{0, options_.heads}, by_group{0, options_.groups};
  const auto part = [&](const std::string& part_name, const Shape& shape, Role role, const Init& init, const Split& split) {
    return ParameterSpec{.name = name + "." + part_name, .shape = shape, .kind = Kind::kSsm, .role = role, .init = init, .split = split};
  };
  const auto projection = [&](const std::string& part_name, int64_t rows, const Split& split) {
    return part("in_proj." + part_name, {rows, build_.input}, Role::kWeight, build_.linear_init(build_.input), split);
  };
  const auto conv = [&](const std::string& what, Role role) {
    const auto channels = [&](const std::string& part_name, int64_t count, const Split& split) {
      const Shape shape = role == Role::kConv ? Shape{count, options_.conv} : Shape{count};
      return part(what + "." + part_name, shape, role, fan_in_init(options_.conv), split);
    };
    return declarations.declare(name + "." + what,
                                {channels("x", inner, by_head), channels("B", bc, by_group), channels("C", bc, by_group)});
  };
  const Init one{Init::kConstant, 1}, a{Init::kLogOfUniform, 1, 16}, dt{Init::kInverseSoftplus, 1e-3, 1e-1};

  in_proj_ = declarations.declare(name + ".in_proj",
                                  {projection("z", inner, by_head), projection("x", inner, by_head), projection("B", bc, by_group),
                                   projection("C", bc, by_group), projection("dt", options_.heads, by_head)});
  conv_weight_ = conv("conv", Role::kConv);
  conv_bias_ = conv("conv_bias", Role::kBias);
  const auto read_twice = [](ParameterSpec spec) {  // by chunk states and chunk outputs
    spec.reads = 2;
    return spec;
  };
  a_log_ = declarations.declare(read_twice(part("A_log", {options_.heads}, Role::kALog, a, by_head)));
  dt_bias_ = declarations.declare(read_twice(part("dt_bias", {options_.heads}, Role::kDtBias, dt, by_head)));
  d_skip_ = declarations.declare(part("D", {options_.heads}, Role::kD, one, by_head));
  if (options_.gate_norm.order != GateNormOptions::kNone)
    norm_weight_ = declarations.declare(part("norm", {inner}, Role::kNorm, one, by_head));
  out_proj_ = declarations.declare(part("out_proj", {build_.output, inner}, Role::kWeight, build_.output_init(inner), {1, options_.heads}));
}

Var Mamba2::gated(const Var& y_BSI, const Var& z_BSI) const {
  const auto [order, group] = options_.gate_norm;
  if (order == GateNormOptions::kNone) return gated_activation(z_BSI, y_BSI, Activation::kSilu);
  const bool all = group == GateNormOptions::kAll;
  const int64_t groups_here = all ? 1 : groups_, group_width = options_.heads * options_.head_dim / (all ? 1 : options_.groups);
  if (order == GateNormOptions::kGateFirst && norm_group_.size() == 1)
    return gated_norm(y_BSI, z_BSI, norm_weight_, groups_here, build_.norm.eps);
  // A group's channels may lie on several ranks.
  const Var squares_BSG = tp_sum_statistic(
      order == GateNormOptions::kGateFirst ? gated_square_sum(y_BSI, z_BSI, groups_here) : square_sum(y_BSI, groups_here), norm_group_);
  return gated_rms_norm(y_BSI, z_BSI, norm_weight_, squares_BSG, group_width, build_.norm.eps);
}

Var Mamba2::forward(const Var& u_BSD, Carry&, const Context& ctx) const {
  const int64_t inner = heads_ * options_.head_dim, bc = groups_ * options_.state;
  const Runs& runs = ctx.layout().runs;

  Var projected = linear(tp_enter(u_BSD, tp_), in_proj_);
  if (const auto& m = options_.multipliers)
    projected = scale_segments(projected, {{inner, (*m)[0]}, {inner, (*m)[1]}, {bc, (*m)[2]}, {bc, (*m)[3]}, {heads_, (*m)[4]}});
  const Vars zvd = split_last(projected, {inner, inner + 2 * bc, heads_});
  const Var &z_BSI = zvd[0], &vbc_BSC = zvd[1], &dt_BSH = zvd[2];
  const Var halo = enter_halo(vbc_BSC, options_.conv - 1, ctx, kHaloSlot);
  const Vars vbc = split_last(causal_conv1d_silu(vbc_BSC, conv_weight_, conv_bias_, halo, runs), {inner, bc, bc});
  const auto [low, high] = options_.dt_limit.value_or(kNoLimit);
  const SsdInputs ssd{.v = split_heads(vbc[0], options_.head_dim),
                      .dt = dt_BSH,
                      .b = split_heads(vbc[1], options_.state),
                      .c = split_heads(vbc[2], options_.state),
                      .a_log = a_log_,
                      .dt_bias = dt_bias_,
                      .d_skip = d_skip_,
                      .runs = runs,
                      .chunk = options_.chunk,
                      .dt_low = low,
                      .dt_high = high};
  // From the run before: a neighbour rank, the cache, or a document's reset.
  const Var h0 = enter_state(ssd_chunk_states(ssd), ssd_first_chunks(runs, options_.chunk), ctx, kStateSlot);
  const Var y_BSI = merge_heads(ssd_chunk_outputs(ssd, h0));
  if (ctx.health && ctx.counting()) observe_scan(ctx.health->of(kind()), dt_BSH.data(), dt_bias_.data(), a_log_.data(), h0.data());
  return tp_leave(linear(gated(y_BSI, z_BSI), out_proj_), tp_);
}

std::vector<State> Mamba2::make_states(int64_t batch, int64_t, DType dtype) const {
  const int64_t channels = heads_ * options_.head_dim + 2 * groups_ * options_.state;
  return {State{{Tensor::zeros({batch, options_.conv - 1, channels}, dtype),
                 Tensor::zeros({batch, heads_, options_.head_dim, options_.state}, wide(dtype))}}};
}

// The projections, and of SSD what effort(SsdStatesForward) and effort(SsdOutputsForward) count.
Cost Mamba2::cost(const TokenShape& shape) const {
  const auto inner = static_cast<double>(options_.heads * options_.head_dim), bc = static_cast<double>(options_.groups * options_.state);
  const double projected = 2 * inner + 2 * bc + static_cast<double>(options_.heads);
  const double weights = projected * static_cast<double>(build_.input) + inner * static_cast<double>(build_.output);
  const auto state = static_cast<double>(options_.state);
  const double pairs_a_token = (static_cast<double>(std::min(options_.chunk, shape.length)) + 1) / 2;
  return Cost{.flops = 2 * shape.tokens() * (weights + 2 * inner * state + pairs_a_token * (inner + bc))};
}

}  // namespace ropewalk
