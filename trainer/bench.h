// The benchmark: one training step of a configuration on random tokens, as a whole and op by op, beside what this machine can do at most.
#pragma once

#include <string>

#include "trainer/config/config.h"
#include "trainer/rank_model.h"

namespace ropewalk {

struct BenchOptions {
  int64_t steps = 20, warmup = 3;
};

// Collective. What rank 0 measured, as a table; rates and ceilings are those of all ranks.
std::string bench(const Config& config, const BenchOptions& options, const Group& world);

}  // namespace ropewalk
