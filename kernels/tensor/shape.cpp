#include "kernels/tensor/shape.h"

#include <algorithm>

#include "kernels/error.h"

namespace ropewalk {

Shape::Shape(const int64_t* extents, int rank) : rank_(rank) {
  expect(rank <= kMaxRank, "shape: expected at most {} dims, given {}", +kMaxRank, rank);
  std::copy_n(extents, rank, extents_.begin());
}

int64_t Shape::numel() const {
  int64_t product = 1;
  for (int64_t extent : *this) product *= extent;
  return product;
}

Shape Shape::with(int dim, int64_t extent) const {
  Shape changed = *this;
  changed[dim] = extent;
  return changed;
}

Shape Shape::then(std::initializer_list<int64_t> more) const {
  Shape longer = *this;
  expect(rank_ + static_cast<int>(more.size()) <= kMaxRank, "shape: {} has no room for {} more dims", to_string(), more.size());
  for (int64_t extent : more) longer.extents_[longer.rank_++] = extent;
  return longer;
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

std::string Shape::to_string() const {
  std::string text = "[";
  for (int d = 0; d < rank_; ++d) text += (d > 0 ? ", " : "") + std::to_string(extents_[d]);
  return text + "]";
}

}  // namespace ropewalk
