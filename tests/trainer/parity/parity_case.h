// Runs that must come out as they do on one rank, many of them side by side.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/parity.h"

namespace ropewalk::testing {

struct ParityCase {
  std::string name;    // a line of what it is
  std::string config;  // YAML, with the degrees under `parallel`
  int ranks = 1;
  uint64_t packing = 0;  // seed of where documents begin; 0: tiny_sequence's
};

struct ParityResult {
  Difference difference;               // of SGD's and AdamW's runs the larger
  std::optional<std::string> refused;  // what the configuration's reader says, if it does
  bool equal() const { return !refused && difference.error < kParityTolerance; }
};

// The results in the order of the cases, the same on every rank. Each case runs on a part of the world, as many side by side as there are
// ranks for; `report` is called on rank 0 as results come in. `rounding` is that of largest_difference.
std::vector<ParityResult> run_side_by_side(const Group& world, const std::vector<ParityCase>& cases, double rounding,
                                           const std::function<void(const ParityCase&, const ParityResult&)>& report);

}  // namespace ropewalk::testing
