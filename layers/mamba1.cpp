#include "layers/mamba1.h"

#include "kernels/causal_conv1d/causal_conv1d.h"
#include "kernels/linear/linear.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/views/views.h"
#include "layers/health.h"
#include "parallel/context_parallel/context_parallel.h"

// B batch, S sequence, D model; on this rank: I inner = H heads * P channels (H = 1 where a head lies on several); N state, R dt_rank.
namespace ropewalk {
namespace {
constexpr int kHaloSlot = 0, kStateSlot = 1;

ParameterSpec parameter(const std::string& name, const Shape& shape, Role role, const Init& init, const Split& split) {
  return {.name = name, .shape = shape, .kind = Kind::kSsm, .role = role, .init = init, .split = split};
}

Var side_by_side(const Vars& parts) { return parts.size() == 1 ? parts.front() : concat_last(parts); }
}  // namespace

Mamba1::Mamba1(const Mamba1Options& options, const BuildContext& build, const TensorParallel& tp)
    : options_(options), build_(build), tp_(tp), inner_(options.expand * build.output), head_(static_cast<size_t>(options.heads)) {
  const int64_t rank = tp.group.rank(), ranks = tp.group.size();
  head_group_ = tp.sharing(replicas(Split{0, options.heads}, tp.group.size()));
  inner_here_ = inner_ / ranks;
  first_head_ = rank * options.heads / ranks;
  heads_ = std::max<int64_t>(1, options.heads / ranks);
}

Var Mamba1::normed(const Var& x, const Var& weight) const { return weight ? rms_norm(x, weight, build_.norm.eps, x.dtype()) : x; }

Mamba1::Head Mamba1::declare_head(Declarations& declarations, const std::string& name, int64_t head) const {
  const int64_t heads = options_.heads, channels = inner_ / heads, rank = options_.dt_rank, state = options_.state;
  const auto projection = [&](const std::string& part, int64_t rows) {
    return parameter(name + ".x_proj." + part, {rows, channels}, Role::kWeight, build_.linear_init(channels), {1, channels, head, heads});
  };
  const auto norm = [&](const std::string& part, int64_t width) {
    if (!options_.dtbc_norm) return Var();
    return declarations.declare(
        parameter(fmt::format("{}.{}_norm", name, part), {width}, Role::kNorm, {Init::kConstant, 1}, {0, 1, head, heads}));
  };
  return {.x_proj = declarations.declare(name + ".x_proj", {projection("dt", rank), projection("B", state), projection("C", state)}),
          .dt_norm = norm("dt", rank),
          .b_norm = norm("b", state),
          .c_norm = norm("c", state),
          .dt_proj = declarations.declare(
              parameter(name + ".dt_proj", {channels, rank}, Role::kWeight, fan_in_init(rank), {0, channels, head, heads}))};
}

void Mamba1::declare(Declarations& declarations, const std::string& name) {
  const Split by_channel{0, inner_};
  const auto declare = [&](const std::string& part, const Shape& shape, Role role, const Init& init) {
    return declarations.declare(parameter(name + "." + part, shape, role, init, by_channel));
  };
  const auto projection = [&](const std::string& part) {
    return parameter(name + ".in_proj." + part, {inner_, build_.input}, Role::kWeight, build_.linear_init(build_.input), by_channel);
  };
  in_proj_ = declarations.declare(name + ".in_proj", {projection("x"), projection("z")});
  conv_weight_ = declare("conv", {inner_, options_.conv}, Role::kConv, fan_in_init(options_.conv));
  conv_bias_ = declare("conv_bias", {inner_}, Role::kBias, fan_in_init(options_.conv));
  for (int64_t h = 0; h < options_.heads; ++h)
    head_[h] = declare_head(declarations, options_.heads == 1 ? name : fmt::format("{}.heads.{}", name, h), h);
  a_log_ = declare("A_log", {inner_, options_.state}, Role::kALog, {Init::kLogOfColumn});
  dt_bias_ = declare("dt_bias", {inner_}, Role::kDtBias, {Init::kInverseSoftplus, 1e-3, 1e-1});
  d_skip_ = declare("D", {inner_}, Role::kD, {Init::kConstant, 1});
  out_proj_ =
      declarations.declare(parameter(name + ".out_proj", {build_.output, inner_}, Role::kWeight, build_.output_init(inner_), {1, inner_}));
}

Mamba1::Selection Mamba1::select(const Var& x_BSP, const Head& head) const {
  const Var projected = tp_sum_statistic(linear(x_BSP, head.x_proj), head_group_);
  const Vars dbc = split_last(projected, {options_.dt_rank, options_.state, options_.state});
  return {linear(normed(dbc[0], head.dt_norm), head.dt_proj), normed(dbc[1], head.b_norm), normed(dbc[2], head.c_norm)};
}

Mamba1::Selection Mamba1::select(const Var& x_BSI) const {
  const Vars x = heads_ == 1 ? Vars{x_BSI} : split_last(x_BSI, std::vector<int64_t>(heads_, inner_here_ / heads_));
  Vars dt, b, c;
  for (int64_t h = 0; h < heads_; ++h) {
    const Selection of_head = select(x[h], head_[first_head_ + h]);
    dt.push_back(of_head.dt_BSI);
    b.push_back(of_head.b_BSHN);
    c.push_back(of_head.c_BSHN);
  }
  return {side_by_side(dt), split_heads(side_by_side(b), options_.state), split_heads(side_by_side(c), options_.state)};
}

Var Mamba1::forward(const Var& u_BSD, Carry&, const Context& ctx) const {
  const Runs& runs = ctx.layout().runs;
  const Vars xz = split_last(linear(tp_enter(u_BSD, tp_), in_proj_), {inner_here_, inner_here_});
  const Var halo = enter_halo(xz[0], options_.conv - 1, ctx, kHaloSlot);
  const Var x_BSI = causal_conv1d_silu(xz[0], conv_weight_, conv_bias_, halo, runs);
  const Selection selection = select(x_BSI);
  const SelectiveScan scan = enter_scan({.x = x_BSI,
                                         .dt = selection.dt_BSI,
                                         .z = xz[1],
                                         .b = selection.b_BSHN,
                                         .c = selection.c_BSHN,
                                         .a_log = a_log_,
                                         .dt_bias = dt_bias_,
                                         .d_skip = d_skip_,
                                         .h0 = {},
                                         .runs = runs},
                                        ctx, kStateSlot);
  if (ctx.health && ctx.counting())
    observe_scan(ctx.health->of(kind()), selection.dt_BSI.data(), dt_bias_.data(), a_log_.data(), scan.leaving.data());
  return tp_leave(linear(scan.y, out_proj_), tp_);
}

std::vector<State> Mamba1::make_states(int64_t batch, int64_t, DType dtype) const {
  return {State{
      {Tensor::zeros({batch, options_.conv - 1, inner_here_}, dtype), Tensor::zeros({batch, inner_here_, options_.state}, wide(dtype))}}};
}

std::optional<Cost> Mamba1::cost(const TokenShape& shape) const {
  const int64_t projected = 2 * build_.input + build_.output + 2 * options_.dt_rank + 2 * options_.state;
  return Cost{.flops = 2 * shape.tokens() * static_cast<double>(inner_ * (projected + 3 * options_.state))};
}

}  // namespace ropewalk
