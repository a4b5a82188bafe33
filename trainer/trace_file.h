// A timeline in Chrome's trace event format, which Perfetto (ui.perfetto.dev) opens too: phases, ops, kernels and waits nested on one
// track, transfers beside them.
#pragma once

#include <string>

#include "kernels/tensor/timeline.h"

namespace ropewalk {

// `rank` becomes the process of the trace; the traces of several ranks can be joined.
std::string chrome_trace(const Timeline& timeline, int rank);

}  // namespace ropewalk
