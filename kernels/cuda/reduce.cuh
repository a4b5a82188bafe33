// Sums and maxima over a warp and over a block, in an order that the shape alone decides. Every thread gets the result.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace ropewalk::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

struct Plus {
  static constexpr float kNone = 0;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Maximum {
  static constexpr float kNone = -__builtin_huge_valf();
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

// Over groups of `width` neighbouring lanes, a power of two.
template <class Join>
__device__ float warp_reduce(float x, const Join& join, int width = kWarp) {
  for (int step = width / 2; step > 0; step /= 2) x = join(x, __shfl_xor_sync(kWholeWarp, x, step));
  return x;
}
__device__ inline float warp_sum(float x, int width = kWarp) { return warp_reduce(x, Plus{}, width); }
__device__ inline float warp_max(float x, int width = kWarp) { return warp_reduce(x, Maximum{}, width); }

// Over a block of whole warps along x; `room` is shared memory, kWarp floats. Barriers before and after, so that room may be used again.
template <class Join>
__device__ float block_reduce(float x, float* room, const Join& join) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  x = warp_reduce(x, join);
  __syncthreads();
  if (lane == 0) room[warp] = x;
  __syncthreads();
  return warp_reduce(lane < warps ? room[lane] : Join::kNone, join);
}
__device__ inline float block_sum(float x, float* room) { return block_reduce(x, room, Plus{}); }
__device__ inline float block_max(float x, float* room) { return block_reduce(x, room, Maximum{}); }

// The same sum in T, over a block of a power of two; `room` holds one T a thread.
template <class T>
__device__ T block_total(T x, T* room) {
  __syncthreads();
  room[threadIdx.x] = x;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
  }
  __syncthreads();
  return room[0];
}

}  // namespace ropewalk::cuda
