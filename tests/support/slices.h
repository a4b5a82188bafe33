// Inputs as ops meet them inside a model: slices of a fused projection.
#pragma once

#include "tests/support/finite_difference.h"

namespace ropewalk::testing {

// Random rows [.., width] that stand in rows of width + 3.
inline Tensor random_slice(const Shape& shape, uint64_t seed, double scale = 1.0, DType dtype = DType::kFloat64) {
  return random_tensor(shape.with(-1, shape[-1] + 3), seed, scale, dtype).narrow(-1, 2, shape[-1]);
}

// The same at multiples of eight elements, where rows can be read in packs.
inline Tensor random_aligned_slice(const Shape& shape, uint64_t seed, double scale = 1.0, DType dtype = DType::kFloat64) {
  return random_tensor(shape.with(-1, shape[-1] + 8), seed, scale, dtype).narrow(-1, 8, shape[-1]);
}

}  // namespace ropewalk::testing
