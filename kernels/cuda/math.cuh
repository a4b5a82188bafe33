// Scalar functions of device code, in fp32 by the special function units: relative errors of some 2^-21.
#pragma once

#include <cuda_runtime.h>

namespace ropewalk::cuda {

// Goes to zero where e^-x overflows.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

struct Silu {
  float value, slope;
};
__device__ inline Silu silu(float x) {
  const float s = sigmoid(x), value = x * s;
  return {.value = value, .slope = s + value * (1 - s)};
}

}  // namespace ropewalk::cuda
