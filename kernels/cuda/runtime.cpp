#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <cstdint>

#include "kernels/error.h"

namespace ropewalk::cuda {
namespace {

constexpr int kDeviceFailed = 5;  // exit code

// CUDA's own stream-ordered pool, told to keep what is given back to it.
struct Gpu {
  Gpu() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
    uint64_t everything = UINT64_MAX;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &everything), "cudaMemPoolSetAttribute");
  }

  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
  MemoryStats stats;
};

// Never destroyed: tensors with static lifetime may be freed after any static of ours.
Gpu& gpu() {
  static Gpu* const instance = new Gpu;
  return *instance;
}

}  // namespace

void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  throw Error(kDeviceFailed, fmt::format("{}: {} ({})", call, cudaGetErrorString(code), cudaGetErrorName(code)));
}

bool available() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

std::string describe() {
  cudaDeviceProp device{};
  int driver = 0, runtime = 0;
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  const auto version = [](int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); };
  return fmt::format("{}, sm_{}{}, {} multiprocessors, {:.1f} GiB; driver {}, run time {}", device.name, device.major, device.minor,
                     device.multiProcessorCount, static_cast<double>(device.totalGlobalMem) / (1 << 30), version(driver), version(runtime));
}

cudaStream_t compute_stream() { return gpu().stream; }

void synchronize() { check(cudaStreamSynchronize(gpu().stream), "cudaStreamSynchronize"); }

void* allocate(size_t bytes) {
  void* block = nullptr;
  check(cudaMallocAsync(&block, std::max<size_t>(bytes, 1), gpu().stream), "cudaMallocAsync");
  MemoryStats& stats = gpu().stats;
  stats.in_use += static_cast<int64_t>(bytes);
  stats.peak = std::max(stats.peak, stats.in_use);
  return block;
}

void release(void* block, size_t bytes) {
  gpu().stats.in_use -= static_cast<int64_t>(bytes);
  cudaFreeAsync(block, gpu().stream);  // what fails here has failed before, and a destructor must not throw
}

MemoryStats memory_stats() {
  uint64_t reserved = 0;
  check(cudaMemPoolGetAttribute(gpu().pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "cudaMemPoolGetAttribute");
  MemoryStats stats = gpu().stats;
  stats.reserved = static_cast<int64_t>(reserved);
  return stats;
}

void reset_peak() { gpu().stats.peak = gpu().stats.in_use; }

void copy_to_device(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, gpu().stream), "cudaMemcpyAsync");
}

void copy_to_host(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, gpu().stream), "cudaMemcpyAsync");
  synchronize();
}

}  // namespace ropewalk::cuda
