// How a CUDA half starts its kernels, and the shared memory of their blocks.
//
// Device code here is compiled twice: by nvcc, and as plain C++ against the stand-ins of tests/gpusim, whose threads are fibers. So it
// keeps to what both know: no bare PTX (kernels/cuda/mma.cuh has what there is), shared memory through SharedMemory, and every thread of a
// block reaches every barrier: no return before the last one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "kernels/cuda/runtime.h"

namespace ropewalk::cuda {

constexpr int kWarp = 32;
constexpr size_t kSharedAlignment = 128;

constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// The bytes of shared memory that a kernel's take<T>(counts) needs, one after the other.
template <class T>
constexpr size_t shared_bytes(size_t count) {
  return (count * sizeof(T) + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
}

// A block's shared memory, handed out piece by piece: every thread takes the same pieces in the same order.
class SharedMemory {
 public:
  __device__ SharedMemory() {
#ifdef ROPEWALK_GPUSIM
    next_ = gpusim::shared_memory();
#else
    extern __shared__ __align__(kSharedAlignment) char of_this_block[];
    next_ = of_this_block;
#endif
  }
  // Uninitialised, aligned to kSharedAlignment.
  template <class T>
  __device__ T* take(size_t count) {
    T* const piece = reinterpret_cast<T*>(next_);
    next_ += shared_bytes<T>(count);
#ifdef ROPEWALK_GPUSIM
    gpusim::check_shared_memory(next_);
#endif
    return piece;
  }

 private:
  char* next_;
};

struct Grid {
  dim3 blocks, threads;
  size_t shared = 0;  // bytes a block
};

// Enough blocks of `threads` for one thread an item; kernels walk on by the grid's size (for_each_item), so the number is bounded.
inline Grid grid_for(int64_t items, int threads = 256) {
  constexpr int64_t kMostBlocks = 132 * 16;
  const int64_t blocks = ceil_div(items, threads);
  return {.blocks = dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
          .threads = dim3(static_cast<unsigned>(threads))};
}

// Starts kernel(args...) on the compute stream; nothing where the grid is empty.
template <class... Parameters, class... Args>
void run(void (*kernel)(Parameters...), const Grid& grid, Args&&... args) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  constexpr size_t kUnasked = 48 << 10;  // bytes of shared memory that a kernel has without asking
  if (grid.shared > kUnasked)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared)),
          "cudaFuncSetAttribute");
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared;
  config.stream = compute_stream();
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...), "cudaLaunchKernelEx");
}

// Calls body(i) for this thread's share of [0, n), neighbours next to each other.
template <class Body>
__device__ void for_each_item(int64_t n, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) body(i);
}

}  // namespace ropewalk::cuda
