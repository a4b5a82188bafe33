#include "layers/attention.h"

#include <cmath>

#include "kernels/linear/linear.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/views/views.h"
#include "parallel/context_parallel/context_parallel.h"

// B batch, S sequence, D model; on this rank: H heads, K kv heads, I = H * P; P head_dim.
namespace ropewalk {
namespace {
constexpr int kKeySlot = 0;  // and the values behind it
}

Attention::Attention(const AttentionBlockOptions& options, const BuildContext& build, const KeyValueSharing& sharing,
                     const TensorParallel& tp)
    : options_(options), build_(build), sharing_(sharing), tp_(tp) {
  const int rank = tp.group.rank(), ranks = tp.group.size();
  heads_ = local_range(options.heads, Split{0, options.heads}, rank, ranks).length;
  kv_heads_ = local_range(options.kv_heads, Split{0, options.kv_heads}, rank, ranks).length;
}

void Attention::declare(Declarations& declarations, const std::string& name) {
  const int64_t heads = options_.heads, kv_heads = options_.kv_heads, P = options_.head_dim;
  const bool own_keys = !sharing_.read, gated = options_.output_gate != AttentionBlockOptions::kNone;
  const auto part = [&](const std::string& part_name, const Shape& shape, const Init& init, const Split& split) {
    return ParameterSpec{.name = name + "." + part_name, .shape = shape, .kind = Kind::kAttention, .init = init, .split = split};
  };
  const auto projection = [&](const std::string& part_name, int64_t count) {
    return part("qkv." + part_name, {count * P, build_.input}, build_.linear_init(build_.input), {0, count});
  };
  const auto bias = [&](bool wanted, const char* part_name, int64_t count) {
    return wanted ? declarations.declare(bias_spec(name + ".qkv_bias." + part_name, count * P, Kind::kAttention, Split{0, count})) : Var();
  };
  // Each rank's copy sees its own heads only.
  const auto norm = [&](bool wanted, const char* part_name) {
    return wanted ? declarations.declare({.name = name + "." + part_name,
                                          .shape = {P},
                                          .kind = Kind::kAttention,
                                          .role = Role::kNorm,
                                          .init = {Init::kConstant, build_.norm.zero_centered ? 0.0 : 1.0},
                                          .split = {},
                                          .owed_over_tensor = true})
                  : Var();
  };
  std::vector<ParameterSpec> parts = {projection("q", heads)};
  if (own_keys) {
    parts.push_back(projection("k", kv_heads));
    parts.push_back(projection("v", kv_heads));
  }
  if (gated) parts.push_back(projection("gate", heads));
  qkv_ = declarations.declare(name + ".qkv", parts);
  q_ = {bias(options_.bias.q, "q", heads), norm(options_.qk_norm, "q_norm")};
  k_ = {bias(options_.bias.k && own_keys, "k", kv_heads), norm(options_.qk_norm && own_keys, "k_norm")};
  v_bias_ = bias(options_.bias.v && own_keys, "v", kv_heads);
  out_proj_ = declarations.declare(part("out_proj", {build_.output, heads * P}, build_.output_init(heads * P), {1, heads}));
  if (options_.bias.out)
    out_bias_ = declarations.declare(bias_spec(name + ".out_bias", build_.output, Kind::kAttention, {}, declarations.sequence_parallel()));
}

Ports Attention::ports() const {
  Ports ports;
  if (sharing_.read) ports.reads.push_back(*sharing_.read);
  if (sharing_.publish) ports.writes.push_back(*sharing_.publish);
  return ports;
}

Var Attention::heads_of(const Var& x_BSI, const Side& side, const Context& ctx) const {
  const Var biased = with_bias(x_BSI, side.bias);
  const Var normed =
      options_.qk_norm ? rms_norm(biased, side.norm_weight, build_.norm.eps, biased.dtype(), build_.norm.zero_centered) : biased;
  const Var x_BSHP = split_heads(normed, options_.head_dim);
  return options_.rope ? rope(x_BSHP, ctx.layout().position_BS, *options_.rope) : x_BSHP;
}

Attention::Projected Attention::project(const Var& x_BSD, Carry& carry, const Context& ctx) const {
  const int64_t q_width = heads_ * options_.head_dim, kv_width = kv_heads_ * options_.head_dim;
  const bool gated = options_.output_gate != AttentionBlockOptions::kNone;
  std::vector<int64_t> widths = {q_width};
  if (!sharing_.read) widths.insert(widths.end(), {kv_width, kv_width});
  if (gated) widths.push_back(q_width);
  const Vars parts = split_last(linear(x_BSD, qkv_), widths);

  Projected all{.q_BSHP = heads_of(parts[0], q_, ctx), .k_BSKP = {}, .v_BSKP = {}, .gate_BSI = gated ? parts.back() : Var()};
  if (sharing_.read) {
    const Vars& shared = carry.shared.at(*sharing_.read);
    all.k_BSKP = shared[0];
    all.v_BSKP = shared[1];
  } else {
    all.k_BSKP = heads_of(parts[1], k_, ctx);
    all.v_BSKP = split_heads(with_bias(parts[2], v_bias_), options_.head_dim);
  }
  if (sharing_.publish) carry.shared[*sharing_.publish] = {all.k_BSKP, all.v_BSKP};
  return all;
}

// Scores are linear in k, through rope too: its factor is theirs.
double Attention::score_scale() const {
  return options_.key_scale * options_.scale.value_or(1 / std::sqrt(static_cast<double>(options_.head_dim)));
}

Var Attention::forward(const Var& u_BSD, Carry& carry, const Context& ctx) const {
  const auto [q_BSHP, k_BSKP, v_BSKP, gate_BSI] = project(tp_enter(u_BSD, tp_), carry, ctx);
  const AttentionOptions options{.scale = score_scale(), .window = options_.window};
  Var y_BSI = merge_heads(context_attention(q_BSHP, k_BSKP, v_BSKP, options, ctx, kKeySlot));
  if (options_.output_gate == AttentionBlockOptions::kSigmoid) y_BSI = gated_activation(gate_BSI, y_BSI, Activation::kSigmoid);
  return with_bias(tp_leave(linear(y_BSI, out_proj_), tp_), out_bias_);
}

std::vector<State> Attention::make_states(int64_t batch, int64_t capacity, DType dtype) const {
  const Shape shape{batch, capacity, kv_heads_, options_.head_dim};
  return {State{{Tensor::empty(shape, dtype), Tensor::empty(shape, dtype)}}};
}

std::optional<Cost> Attention::cost(const TokenShape& shape) const {
  const auto width = static_cast<double>(options_.heads * options_.head_dim);
  const bool gated = options_.output_gate != AttentionBlockOptions::kNone;
  const int64_t projected_heads = options_.heads * (gated ? 2 : 1) + (sharing_.read ? 0 : 2 * options_.kv_heads);
  const auto projected = static_cast<double>(projected_heads * options_.head_dim);
  const double weights = projected * static_cast<double>(build_.input) + width * static_cast<double>(build_.output);
  const double pairs = static_cast<double>(shape.rows) * visible_keys(shape.length, options_.window);
  return Cost{.flops = 2 * shape.tokens() * weights + 4 * pairs * width};
}

}  // namespace ropewalk
