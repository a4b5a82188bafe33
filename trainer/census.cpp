#include "trainer/census.h"

#include <algorithm>

namespace ropewalk {

void Census::gather(const Group& all) {
  gathered_ = all.all_gather(Tensor::from({1, std::ssize(mine_)}, mine_), 0, "census").to_vector<double>();
}

double Census::sum(size_t place) const {
  double total = 0;
  for (size_t i = place; i < gathered_.size(); i += mine_.size()) total += gathered_[i];
  return total;
}

double Census::max(size_t place) const {
  double most = gathered_[place];
  for (size_t i = place; i < gathered_.size(); i += mine_.size()) most = std::max(most, gathered_[i]);
  return most;
}

double Census::min(size_t place) const {
  double least = gathered_[place];
  for (size_t i = place; i < gathered_.size(); i += mine_.size()) least = std::min(least, gathered_[i]);
  return least;
}

}  // namespace ropewalk
