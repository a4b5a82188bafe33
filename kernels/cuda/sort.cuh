// Which positions hold which of many small numbers.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk::cuda {

struct SortedPositions {
  Tensor keys, positions;  // [n] int32
};

// keys [n] int32, each in [0, bound), dense: ascending, and where they came from; equal ones in the order of their positions.
SortedPositions sort_positions(const Tensor& keys, int64_t bound);

}  // namespace ropewalk::cuda
