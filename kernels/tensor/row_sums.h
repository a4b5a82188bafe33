// Sums over the rows of a matrix: what the gradient of a parameter that all rows share is made of.
#pragma once

#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/tensor.h"

namespace ropewalk {

// [width] of W: body(begin, end, partial) adds the terms of rows [begin, end) to its own partial sum, and the partials are added in
// order. Their number follows from the shape alone.
template <class W, class Body>
Tensor row_sums(int64_t rows, int64_t width, const Body& body) {
  constexpr int64_t kMaxPartials = 64, kMinRows = 16;  // rows behind one partial
  const int64_t piece = std::max(kMinRows, (rows + kMaxPartials - 1) / kMaxPartials);
  const Tensor partials = Tensor::zeros({(rows + piece - 1) / piece, width}, dtype_of<W>());
  const Tensor sum = Tensor::zeros({width}, dtype_of<W>());
  W* const partial = partials.data<W>();
  parallel_ranges(rows, piece, [&](int64_t begin, int64_t end) { body(begin, end, partial + begin / piece * width); });
  for (int64_t i = 0; i < partials.dim(0); ++i) sum.add(partials.select(0, i));
  return sum;
}

}  // namespace ropewalk
