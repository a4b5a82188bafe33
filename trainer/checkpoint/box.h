// On disk everything is a box of a named global tensor. This file holds the geometry: regions, their overlap, and the dense stretches
// that two of them share.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

// The elements [start, start + extent) of an index space.
struct Region {
  Shape start, extent;

  int64_t numel() const { return extent.numel(); }
  std::string to_string() const;  // as Python slices: "[0:128, 64:96]"
};

struct Box {
  std::string tensor;
  Shape global, start, extent;  // a scalar has rank 1, extent 1
  Tensor data;                  // dense, of shape `extent`

  Region region() const { return {start, extent}; }
};

// Throws ShapeError where the box does not lie inside its tensor or its data is not its extent.
void check_box(const Box& box);

// What a part of a tensor is called where it stands alone: "w" for the whole of w, else "w[0:128, 64:96]".
std::string part_name(const std::string& tensor, const Shape& global, const Region& region);

std::optional<Region> overlap(const Region& a, const Region& b);

// `length` elements that lie side by side in two dense row-major buffers; offsets in elements.
struct Stretch {
  int64_t from, to, length;
};

// The longest stretches that make up the overlap of two regions, in ascending order of both offsets.
void for_each_stretch(const Region& from, const Region& to, const std::function<void(const Stretch&)>& body);

// The elements [begin, end) of a dense row-major tensor as regions of it: few, as long as the range is made of whole rows.
std::vector<Region> regions_of_range(const Shape& shape, int64_t begin, int64_t end);

// Cuts a whole tensor into regions of at most `limit` elements that follow each other in row-major order.
void for_each_slab(const Shape& shape, int64_t limit, const std::function<void(const Region&)>& body);

}  // namespace ropewalk
