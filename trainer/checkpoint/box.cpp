#include "trainer/checkpoint/box.h"

#include <algorithm>

namespace ropewalk {
namespace {

Shape zeros(int rank) {
  Shape shape;
  for (int d = 0; d < rank; ++d) shape = shape.then({0});
  return shape;
}

bool same_extent(const Region& a, const Region& b, int d) { return a.extent[d] == b.extent[d]; }

// Offset of the element `index` (global) in the dense buffer of `region`.
int64_t offset_in(const Region& region, const Shape& index) {
  int64_t offset = 0;
  for (int d = 0; d < index.rank(); ++d) offset = offset * region.extent[d] + index[d] - region.start[d];
  return offset;
}

// Steps `index` to the next row of `region`, counting in the dims before `inner`. False after the last.
bool advance(Shape& index, const Region& region, int inner) {
  for (int d = inner - 1; d >= 0; --d) {
    if (++index[d] < region.start[d] + region.extent[d]) return true;
    index[d] = region.start[d];
  }
  return false;
}

void cut(const Region& region, int dim, int64_t limit, const std::function<void(const Region&)>& body) {
  if (region.numel() <= limit || dim == region.extent.rank()) return body(region);
  const int64_t inner = region.numel() / region.extent[dim], rows = std::max<int64_t>(1, limit / inner);
  const int64_t end = region.start[dim] + region.extent[dim];
  for (int64_t row = region.start[dim]; row < end; row += rows)
    cut({region.start.with(dim, row), region.extent.with(dim, std::min(rows, end - row))}, dim + 1, limit, body);
}

}  // namespace

std::string Region::to_string() const {
  std::string text = "[";
  for (int d = 0; d < start.rank(); ++d) text += fmt::format("{}{}:{}", d > 0 ? ", " : "", start[d], start[d] + extent[d]);
  return text + "]";
}

void check_box(const Box& box) {
  const int rank = box.global.rank();
  expect(!box.tensor.empty(), "checkpoint: a box of {} has no name", box.global);
  expect(rank > 0 && box.start.rank() == rank && box.extent.rank() == rank, "checkpoint: {}: box {} + {} of {}: ranks differ or are 0",
         box.tensor, box.start, box.extent, box.global);
  for (int d = 0; d < rank; ++d)
    expect(box.start[d] >= 0 && box.extent[d] >= 0 && box.start[d] + box.extent[d] <= box.global[d], "checkpoint: {}: {} has no {}",
           box.tensor, box.global, box.region().to_string());
  expect(box.data && box.data.shape() == box.extent && box.data.contiguous(), "checkpoint: {}: data: expected dense {}, given {}{}",
         box.tensor, box.extent, box.data ? "" : "no tensor, ", box.data.shape());
}

std::string part_name(const std::string& tensor, const Shape& global, const Region& region) {
  return region.extent == global ? tensor : tensor + region.to_string();
}

std::optional<Region> overlap(const Region& a, const Region& b) {
  Region common = a;
  for (int d = 0; d < a.start.rank(); ++d) {
    common.start[d] = std::max(a.start[d], b.start[d]);
    common.extent[d] = std::min(a.start[d] + a.extent[d], b.start[d] + b.extent[d]) - common.start[d];
    if (common.extent[d] <= 0) return std::nullopt;
  }
  return common;
}

void for_each_stretch(const Region& from, const Region& to, const std::function<void(const Stretch&)>& body) {
  const std::optional<Region> common = overlap(from, to);
  if (!common) return;
  int inner = common->start.rank() - 1;  // the dims from here on lie side by side in both buffers
  while (inner > 0 && same_extent(*common, from, inner) && same_extent(*common, to, inner)) --inner;
  int64_t length = 1;
  for (int d = inner; d < common->start.rank(); ++d) length *= common->extent[d];

  Shape index = common->start;
  do body({offset_in(from, index), offset_in(to, index), length});
  while (advance(index, *common, inner));
}

std::vector<Region> regions_of_range(const Shape& shape, int64_t begin, int64_t end) {
  std::vector<Region> regions;
  while (begin < end) {
    // Along the first dim whose slices begin here and fit, as many of them as fit.
    int d = 0;
    int64_t slice = shape.numel() / shape[0];
    while (begin % slice != 0 || end - begin < slice) slice /= shape[++d];
    Region region{shape, shape};
    int64_t rest = begin / slice;
    for (int i = d; i >= 0; rest /= shape[i--]) {
      region.start[i] = rest % shape[i];
      region.extent[i] = 1;
    }
    region.extent[d] = std::min(shape[d] - region.start[d], (end - begin) / slice);
    for (int i = d + 1; i < shape.rank(); ++i) region.start[i] = 0;
    begin += region.numel();
    regions.push_back(region);
  }
  return regions;
}

void for_each_slab(const Shape& shape, int64_t limit, const std::function<void(const Region&)>& body) {
  cut({zeros(shape.rank()), shape}, 0, limit, body);
}

}  // namespace ropewalk
