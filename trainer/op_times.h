// Where the time of a recorded stretch went, op by op: every instant counts for the innermost op, rule or phase around it, so that the
// times add up to the whole.
#pragma once

#include <string>

#include "kernels/tensor/timeline.h"

namespace ropewalk {

struct OpTime {
  std::string name;  // "linear", "linear.backward", "optimizer", "wait: gradients"
  int64_t calls = 0;
  double seconds = 0;
  Effort effort;  // flops: of its kernels
};

// Most time first.
std::vector<OpTime> op_times(const Timeline& timeline);

}  // namespace ropewalk
