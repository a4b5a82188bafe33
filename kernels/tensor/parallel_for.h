// Work split over the threads of this rank. Pieces never depend on the number of threads, so results do not either:
// a sum over many pieces keeps one partial a piece and adds the partials in order.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ropewalk {

// Calls body(i) for each i in [0, n), in any order and on any thread.
template <class Body>
void parallel_for(int64_t n, const Body& body) {
#pragma omp parallel for schedule(dynamic, 1) if (n > 1)
  for (int64_t i = 0; i < n; ++i) body(i);
}

// Calls body(begin, end) for consecutive ranges of at most `grain` that cover [0, n).
template <class Body>
void parallel_ranges(int64_t n, int64_t grain, const Body& body) {
  parallel_for((n + grain - 1) / grain, [&](int64_t i) { body(i * grain, std::min(n, (i + 1) * grain)); });
}

}  // namespace ropewalk
