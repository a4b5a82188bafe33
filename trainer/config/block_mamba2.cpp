// `mixer: mamba2`.
#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

GateNormOptions read_gate_norm(const Node& node) {
  return {.order = node["order"]
                       .about("norm(y silu(z)), norm(y) silu(z), or y silu(z).")
                       .choice<GateNormOptions::Order>({{"gate_first", GateNormOptions::kGateFirst},
                                                        {"norm_first", GateNormOptions::kNormFirst},
                                                        {"none", GateNormOptions::kNone}},
                                                       GateNormOptions::kGateFirst),
          .group = node["group"]
                       .about("Channels that share their statistics: those of a B and C, or all.")
                       .choice<GateNormOptions::Group>({{"per_group", GateNormOptions::kPerGroup}, {"all", GateNormOptions::kAll}},
                                                       GateNormOptions::kPerGroup)};
}

std::optional<std::array<double, 2>> read_dt_limit(const Node& node) {
  if (node.is_null(true)) return {};
  const std::vector<double> limit = node.numbers(kNotNegative, {0, 0});
  if (limit[0] >= limit[1]) throw node.expected("[low, high] with low below high");
  return std::array{limit[0], limit[1]};
}

}  // namespace

Mamba2Options read_mamba2(const Node& block) {
  Mamba2Options mamba;
  mamba.heads = block["heads"].about("Heads of the scan; `heads` x `head_dim` is the inner width.").size();
  mamba.head_dim = block["head_dim"].about("Channels of a head.").size();
  mamba.state = block["state"].about("State of a channel (N).").size();
  mamba.groups = block["groups"].about("Groups of heads with one B and C each; a divisor of `heads`.").size(1);
  mamba.conv = block["conv"].about("Width of the causal convolution.").size(4);
  mamba.chunk = block["chunk"].about("Tokens that the scan takes at once; changes speed, not results.").size(128);
  mamba.gate_norm = read_gate_norm(block["gate_norm"].about("The norm of the output y, and its gate z."));
  mamba.dt_limit = read_dt_limit(block["dt_limit"].about("[low, high]: time steps are clamped to these; null: not."));
  mamba.multipliers =
      read_multipliers<5>(block["multipliers"].about("[z, x, B, C, dt]: constant factors on these outputs of in_proj; null: none."));
  expect_divisor(block["groups"], mamba.groups, "heads", mamba.heads);
  return mamba;
}

}  // namespace ropewalk
