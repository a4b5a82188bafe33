// Sums over rows that blocks have each made a part of: what the gradient of a parameter that all rows share is made of. The number of parts
// and their order follow from the shape alone.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/tensor/tensor.h"

namespace ropewalk::cuda {

constexpr int64_t kMostParts = 264;  // two blocks on each multiprocessor of an H100

inline int64_t parts_of(int64_t rows) { return rows < kMostParts ? rows : kMostParts; }

// sum[i] += parts[0][i] + parts[1][i] + ..; parts [P, n] fp32 dense, sum n elements of fp32, dense.
void add_parts(const Tensor& parts, const Tensor& sum);

}  // namespace ropewalk::cuda
