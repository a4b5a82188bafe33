// Where the time of a recorded stretch went, op by op: every instant counts for the innermost op, rule or phase around it, so that the
// times add up to the whole.
#pragma once

#include <map>
#include <string>
#include <vector>

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
// Seconds at each place of the model, but not those of waiting for other stages of the pipeline.
std::map<std::string, double> place_times(const Timeline& timeline);

}  // namespace ropewalk
