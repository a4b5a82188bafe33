#include "layers/attention.h"

#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/views/views.h"
#include "parallel/context_parallel/context_parallel.h"

// B batch, S sequence, D model; on this rank: H heads, K kv heads; P head_dim.
namespace ropewalk {
namespace {
constexpr int kKeySlot = 0;  // and the values behind it
}

Attention::Attention(const AttentionBlockOptions& options, const Widths& widths, const KeyValueSharing& sharing, const TensorParallel& tp)
    : options_(options), widths_(widths), sharing_(sharing), tp_(tp) {
  const int rank = tp.group.rank(), ranks = tp.group.size();
  heads_ = local_range(options.heads, Split{0, options.heads}, rank, ranks).length;
  kv_heads_ = local_range(options.kv_heads, Split{0, options.kv_heads}, rank, ranks).length;
}

void Attention::declare(Declarations& declarations, const std::string& name) {
  const auto part = [&](const std::string& part_name, const Shape& shape, const Init& init, const Split& split) {
    return ParameterSpec{.name = name + "." + part_name, .shape = shape, .kind = Kind::kAttention, .init = init, .split = split};
  };
  const auto projection = [&](const std::string& part_name, int64_t heads) {
    return part("qkv." + part_name, {heads * options_.head_dim, widths_.input}, linear_init(widths_.input), {0, heads});
  };
  std::vector<ParameterSpec> parts = {projection("q", options_.heads)};
  if (!sharing_.read) {
    parts.push_back(projection("k", options_.kv_heads));
    parts.push_back(projection("v", options_.kv_heads));
  }
  qkv_ = declarations.declare(name + ".qkv", parts);
  const int64_t width = options_.heads * options_.head_dim;
  out_proj_ =
      declarations.declare(part("out_proj", {widths_.output, width}, linear_init(width, widths_.output_scale), {1, options_.heads}));
}

Ports Attention::ports() const {
  Ports ports;
  if (sharing_.read) ports.reads.push_back(*sharing_.read);
  if (sharing_.publish) ports.writes.push_back(*sharing_.publish);
  return ports;
}

Var Attention::rotate(const Var& x_BSHP, const Context& ctx) const {
  return options_.rope ? rope(x_BSHP, ctx.layout().position_BS, *options_.rope) : x_BSHP;
}

Attention::Projected Attention::project(const Var& x_BSD, Carry& carry, const Context& ctx) const {
  const int64_t q_width = heads_ * options_.head_dim, kv_width = kv_heads_ * options_.head_dim;
  const Var projected = linear(x_BSD, qkv_);
  if (sharing_.read) {
    const Vars& shared = carry.shared.at(*sharing_.read);
    return {rotate(split_heads(projected, options_.head_dim), ctx), shared[0], shared[1]};
  }
  const Vars qkv = split_last(projected, {q_width, kv_width, kv_width});
  const Projected own{rotate(split_heads(qkv[0], options_.head_dim), ctx), rotate(split_heads(qkv[1], options_.head_dim), ctx),
                      split_heads(qkv[2], options_.head_dim)};
  if (sharing_.publish) carry.shared[*sharing_.publish] = {own.k_BSKP, own.v_BSKP};
  return own;
}

Var Attention::forward(const Var& u_BSD, Carry& carry, const Context& ctx) const {
  const auto [q_BSHP, k_BSKP, v_BSKP] = project(tp_enter(u_BSD, tp_), carry, ctx);
  const KeyValues keys = enter_keys(k_BSKP, v_BSKP, options_.window, ctx, kKeySlot);
  const double scale = 1 / std::sqrt(static_cast<double>(options_.head_dim));
  const Var y_BSHP = attention(q_BSHP, keys.k, keys.v, keys.spans, {.scale = scale, .window = options_.window});
  return tp_leave(linear(merge_heads(y_BSHP), out_proj_), tp_);
}

std::vector<State> Attention::make_states(int64_t batch, int64_t capacity, DType dtype) const {
  const Shape shape{batch, capacity, kv_heads_, options_.head_dim};
  return {State{{Tensor::empty(shape, dtype), Tensor::empty(shape, dtype)}}};
}

std::optional<Cost> Attention::cost(const TokenShape& shape) const {
  const auto width = static_cast<double>(options_.heads * options_.head_dim);
  const auto projected = static_cast<double>((options_.heads + (sharing_.read ? 0 : 2 * options_.kv_heads)) * options_.head_dim);
  const double weights = projected * static_cast<double>(widths_.input) + width * static_cast<double>(widths_.output);
  const double pairs = static_cast<double>(shape.rows) * visible_keys(shape.length, options_.window);
  return Cost{.flops = 2 * shape.tokens() * weights + 4 * pairs * width};
}

}  // namespace ropewalk
