// Scalar functions of float for device code: kernels/tensor/math.h by the GPU's own exponential, good to about 1e-6.
#pragma once

#include <cuda_runtime.h>

namespace ropewalk::cuda {

// 0 where e^-x is beyond 2^126: __fdividef's quotient.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ inline float silu(float x) { return x * sigmoid(x); }
// d silu(x) / dx
__device__ inline float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace ropewalk::cuda
