// `mixer: mamba2`.
#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

GateNormOptions read_gate_norm(const Node& node) {
  return {.order = node["order"].choice<GateNormOptions::Order>(
              {{"gate_first", GateNormOptions::kGateFirst}, {"norm_first", GateNormOptions::kNormFirst}, {"none", GateNormOptions::kNone}},
              GateNormOptions::kGateFirst),
          .group = node["group"].choice<GateNormOptions::Group>({{"per_group", GateNormOptions::kPerGroup}, {"all", GateNormOptions::kAll}},
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
  mamba.heads = block["heads"].size();
  mamba.head_dim = block["head_dim"].size();
  mamba.state = block["state"].size();
  mamba.groups = block["groups"].size(1);
  mamba.conv = block["conv"].size(4);
  mamba.chunk = block["chunk"].size(128);
  mamba.gate_norm = read_gate_norm(block["gate_norm"]);
  mamba.dt_limit = read_dt_limit(block["dt_limit"]);
  mamba.multipliers = read_multipliers<5>(block["multipliers"]);
  expect_divisor(block["groups"], mamba.groups, "heads", mamba.heads);
  return mamba;
}

}  // namespace ropewalk
