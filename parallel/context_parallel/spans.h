// What runs of queries see of runs of keys, whichever ranks hold them.
#pragma once

#include <optional>

#include "kernels/tensor/runs.h"

namespace ropewalk {

// Both in a layout's order. Holds the runs of queries that may see any of these keys.
Spans spans_of(const Runs& queries, const Runs& keys, const std::optional<int64_t>& window);

}  // namespace ropewalk
