// What the ranks tell each other at the end of a step, in one collective: each puts its values, always in the same order, and then any
// rank knows the values of all.
#pragma once

#include <vector>

#include "parallel/comm/group.h"

namespace ropewalk {

class Census {
 public:
  // Returns the value's place.
  size_t put(double value) {
    mine_.push_back(value);
    return mine_.size() - 1;
  }
  void gather(const Group& all);

  // Over the ranks, in their order: every rank gets the same bits.
  double sum(size_t place) const;
  double max(size_t place) const;
  double min(size_t place) const;

 private:
  std::vector<double> mine_, gathered_;  // gathered_: by rank, then by place
};

}  // namespace ropewalk
