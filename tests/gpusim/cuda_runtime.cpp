// The stand-in run time: see tests/gpusim/include/cuda_runtime.h.
#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "tests/gpusim/memory.h"
#include "tests/gpusim/stream.h"

namespace gpusim {

void Stream::drain() {
  while (!queue_.empty()) {
    const auto work = std::move(queue_.front());
    queue_.pop_front();
    const Access access;
    work();
  }
}

bool launch(Stream* stream, Extent blocks, Extent threads, size_t shared_bytes, Kernel kernel) {
  constexpr size_t kMostThreads = 1024, kMostShared = 227 << 10, kMostBlocks = 65535, kDeepest = 64;  // of an H100
  if (blocks.volume() == 0 || threads.volume() == 0 || threads.volume() > kMostThreads || threads.z > kDeepest ||
      shared_bytes > kMostShared || blocks.y > kMostBlocks || blocks.z > kMostBlocks)
    return false;
  stream->push([=, kernel = std::move(kernel)] { run_kernel(blocks, threads, shared_bytes, kernel); });
  return true;
}

}  // namespace gpusim

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNotReady: return "device not ready";
  }
  return "unknown error";
}
const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNotReady: return "cudaErrorNotReady";
  }
  return "?";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "simulated GPU", .totalGlobalMem = size_t{80} << 30, .major = 9, .minor = 0, .multiProcessorCount = 132};
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = static_cast<uint64_t>(gpusim::reserved_bytes());
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new gpusim::Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream->drain();
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** block, size_t bytes, cudaStream_t) {
  *block = gpusim::allocate(bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* block, cudaStream_t stream) {
  stream->push([=] { gpusim::free(block); });
  return cudaSuccess;
}

// Pageable host memory: the bytes are read before the call returns, and written by then where the host is the target.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = gpusim::in_device_memory(to), from_device = gpusim::in_device_memory(from);
  if (to_device != (kind != cudaMemcpyDeviceToHost) || from_device != (kind != cudaMemcpyHostToDevice)) return cudaErrorInvalidValue;
  if (kind == cudaMemcpyHostToDevice) {
    const auto* const bytes_now = static_cast<const char*>(from);
    stream->push([=, staged = std::vector<char>(bytes_now, bytes_now + bytes)] { std::memcpy(to, staged.data(), bytes); });
    return cudaSuccess;
  }
  stream->push([=] { std::memcpy(to, from, bytes); });
  if (kind == cudaMemcpyDeviceToHost) stream->drain();
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  if (!gpusim::in_device_memory(at)) return cudaErrorInvalidValue;
  stream->push([=] { std::memset(at, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
