// What a model keeps besides its parameters.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/group.h"

namespace ropewalk {

// Counts over all tokens of one optimizer step: how many of them each expert got. A forward pass adds to it where Context::counting();
// what is counted are whole numbers, so that sums over microbatches and ranks are exact in any order.
struct Tally {
  std::string name;
  Tensor counts;  // [n] fp64
};

// A named tensor that is not trained, but changed by a rule of its own after each optimizer step that updated the parameters. It is wide,
// starts at 0, and lies on disk as buffers/<name>. Buffers are small: every rank holds those of the whole model, and changes them alike.
struct Buffer {
  std::string name;
  Shape shape;
  std::function<void(const Tensor& value)> update;
  Tensor value{};  // placed by the ParameterStore
};

using Tallies = std::vector<std::shared_ptr<Tally>>;
using Buffers = std::vector<std::shared_ptr<Buffer>>;

void clear_tallies(const Tallies& tallies);
// Each tally summed over those ranks of a group whose own counts. Collective.
void sum_tallies(const Tallies& tallies, const Group& group, bool own_counts);

}  // namespace ropewalk
