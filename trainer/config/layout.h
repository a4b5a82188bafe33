// What the four forms of `model.layout` have in common: names of blocks in, layers out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "trainer/config/sections.h"

namespace ropewalk {

using Blocks = std::map<std::string, BlockOptions>;
using Layers = std::vector<std::vector<std::string>>;

constexpr int64_t kMostLayers = 1 << 16;

inline bool is_any(const BlockOptions&) { return true; }

// rules: {layers: 32, mixer: {A: "i % 8 == 4", else: M}, ffn: {E: "i % 2 == 1", else: F}}: of each list the first whose condition holds.
Layers read_rules(const Node& node, const Blocks& blocks);
// units: [{repeat: 7, layers: [[M, F], [M, E], [A, F]]}, ...]: the layers spelled out, runs of them repeated.
Layers read_units(const Node& node, const Blocks& blocks);

}  // namespace ropewalk
