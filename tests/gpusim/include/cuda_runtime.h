// A stand-in for the CUDA run time and the language of device code: what the sources of this project use of them, and no more. A kernel is
// an ordinary function; the threads of a block are fibers (tests/gpusim/block.h), streams are queues that run when something orders it
// (tests/gpusim/stream.h), device memory cannot be read outside of that (tests/gpusim/memory.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numbers>

#include "tests/gpusim/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

// ---- the language

struct dim3 {
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned x, y, z;
};
inline const gpusim::Extent &threadIdx = gpusim::now.thread, &blockIdx = gpusim::now.block, &blockDim = gpusim::now.threads,
                            &gridDim = gpusim::now.blocks;

inline void __syncthreads() { gpusim::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { gpusim::warp_barrier(mask); }

template <class T>
T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32) {
  const auto all = gpusim::gather(x, mask);
  const int lane = gpusim::lane(), from = lane ^ lanes;
  return from / width == lane / width ? all[static_cast<size_t>(from)] : x;
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
  const auto all = gpusim::gather(x, mask);
  const int lane = gpusim::lane(), from = lane - static_cast<int>(lanes);
  return from >= lane / width * width ? all[static_cast<size_t>(from)] : x;
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
  const auto all = gpusim::gather(x, mask);
  const int lane = gpusim::lane(), from = lane + static_cast<int>(lanes);
  return from < (lane / width + 1) * width ? all[static_cast<size_t>(from)] : x;
}
template <class T>
T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
  const auto all = gpusim::gather(x, mask);
  return all[static_cast<size_t>(gpusim::lane() / width * width + from % width)];
}
inline unsigned __ballot_sync(unsigned mask, int holds) {
  const auto all = gpusim::gather(holds, mask);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i)
    if ((mask >> i & 1) && all[i]) bits |= 1u << i;
  return bits;
}

template <class T>
unsigned __match_any_sync(unsigned mask, T x) {
  const auto all = gpusim::gather(x, mask);
  unsigned bits = 0;
  for (unsigned i = 0; i < 32; ++i)
    if ((mask >> i & 1) && all[i] == x) bits |= 1u << i;
  return bits;
}
inline int __popc(unsigned bits) { return std::popcount(bits); }

// Fibers change only at barriers: between them a thread is alone.
template <class T>
T atomicAdd(T* at, T x) {
  const T before = *at;
  *at += x;
  return before;
}

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline void sincospif(float x, float* sine, float* cosine) {
  const double angle = std::numbers::pi * static_cast<double>(x);
  *sine = static_cast<float>(std::sin(angle));
  *cosine = static_cast<float>(std::cos(angle));
}

// ---- the run time

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4, cudaMemPoolAttrReservedMemCurrent = 5 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
};
using cudaStream_t = gpusim::Stream*;
using cudaEvent_t = gpusim::Event*;
using cudaMemPool_t = struct CudaMemPool*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

const char* cudaGetErrorString(cudaError_t code);
const char* cudaGetErrorName(cudaError_t code);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMallocAsync(void** block, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* block, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

template <class... Parameters, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Args&&... args) {
  const gpusim::Extent blocks{config->gridDim.x, config->gridDim.y, config->gridDim.z},
      threads{config->blockDim.x, config->blockDim.y, config->blockDim.z};
  return gpusim::launch(config->stream, blocks, threads, config->dynamicSmemBytes, [=] { kernel(args...); }) ? cudaSuccess
                                                                                                             : cudaErrorInvalidValue;
}
