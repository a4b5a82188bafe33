// `mixer: attention`.
#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

std::optional<RopeOptions> read_rope(const Node& node) {
  if (!node.is(Value::kMap)) {
    if (node.given() && !node.says("none")) throw node.expected("none or {theta: NUMBER, fraction: NUMBER}");
    node.choice<bool>({{"none", false}}, false);
    return {};
  }
  return RopeOptions{.theta = node["theta"].about("Base of the frequencies.").number(kPositive, RopeOptions().theta),
                     .fraction = node["fraction"]
                                     .about("Share of a head's channels that is rotated, the first of them.")
                                     .number(kPositive, RopeOptions().fraction)};
}

void expect_rotatable(const Node& block, const AttentionBlockOptions& attention) {
  if (!attention.rope || rotated_channels(*attention.rope, attention.head_dim).value_or(0) > 0) return;
  if (attention.rope->fraction == 1)
    throw block["head_dim"].error(fmt::format("expected an even number for rope, given {}", attention.head_dim));
  throw block["rope"]["fraction"].expected(
      fmt::format("a part of head_dim ({}) that is an even number of channels, at most all", attention.head_dim));
}

int64_t read_head_dim(const Node& node, int64_t d_model, int64_t heads) {
  if (!node.given() && d_model % heads != 0)
    throw node.error(fmt::format("required where heads ({}) do not divide d_model ({})", heads, d_model));
  return node.size(d_model / heads);
}

AttentionBlockOptions::Bias read_bias(const Node& node) {
  AttentionBlockOptions::Bias bias;
  using Member = bool AttentionBlockOptions::Bias::*;
  for (const Node& item : node.items()) {
    const auto which = item.choice<Member>({{"q", &AttentionBlockOptions::Bias::q},
                                            {"k", &AttentionBlockOptions::Bias::k},
                                            {"v", &AttentionBlockOptions::Bias::v},
                                            {"out", &AttentionBlockOptions::Bias::out}});
    if (bias.*which) throw item.error("given twice");
    bias.*which = true;
  }
  return bias;
}

}  // namespace

AttentionBlockOptions read_attention(const Node& block, int64_t d_model) {
  AttentionBlockOptions attention;
  attention.heads = block["heads"].about("Query heads.").size();
  attention.kv_heads = block["kv_heads"].about("Key and value heads; a divisor of `heads`.", "`heads`").size(attention.heads);
  const Node head_dim = block["head_dim"].about("Channels of a head.", "`d_model` / `heads`");
  attention.head_dim = read_head_dim(head_dim, d_model, attention.heads);
  attention.rope = read_rope(block["rope"].about("Rotary position embedding."));
  const Node window = block["window"].about("How many positions a query sees, its own among them; null: all before it.");
  if (!window.is_null(true)) attention.window = window.size();
  attention.qk_norm = block["qk_norm"].about("Whether each head's queries and keys pass an RMS norm, before rope.").flag(false);
  attention.output_gate =
      block["output_gate"]
          .about("`sigmoid`: each channel is gated by a projection of the input, before out_proj.")
          .choice<AttentionBlockOptions::OutputGate>({{"none", AttentionBlockOptions::kNone}, {"sigmoid", AttentionBlockOptions::kSigmoid}},
                                                     AttentionBlockOptions::kNone);
  attention.bias = read_bias(block["bias"].about("Which projections have biases.", "none"));
  const Node scale = block["scale"].about("Factor on the scores; null: 1 / sqrt(`head_dim`).");
  if (!scale.is_null(true)) attention.scale = scale.number(kPositive);
  attention.key_scale = block["key_scale"].about("Factor on the keys, before rope.").number(kPositive, 1);
  expect_divisor(block["kv_heads"], attention.kv_heads, "heads", attention.heads);
  expect_rotatable(block, attention);
  return attention;
}

}  // namespace ropewalk
