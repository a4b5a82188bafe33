// Which sub-layers keep only their inputs in forward, and run again in backward.
#pragma once

#include <set>
#include <string>

#include "kernels/autograd/tape.h"

namespace ropewalk {

struct RecomputePolicy {
  RecomputePolicy(Recompute all_of_them = Recompute::kNone) : all(all_of_them) {}
  explicit RecomputePolicy(std::set<std::string> some) : kinds(std::move(some)) {}

  Recompute of(const std::string& kind) const { return kinds.contains(kind) ? Recompute::kFull : all; }
  bool operator==(const RecomputePolicy&) const = default;

  Recompute all = Recompute::kNone;
  std::set<std::string> kinds;  // or these, as SubLayer::kind() names them
};

}  // namespace ropewalk
