#include "kernels/tensor/memory.h"

#include "kernels/tensor/allocator.h"
#ifdef ROPEWALK_CUDA
#include "kernels/cuda/runtime.h"
#endif

namespace ropewalk {

#ifdef ROPEWALK_CUDA

bool available(Device device) { return !device.is_cuda() || cuda::available(); }
std::string describe(Device device) { return device.is_cuda() ? cuda::describe() : "the host"; }

void* allocate(Device device, size_t bytes) { return device.is_cuda() ? cuda::allocate(bytes) : Allocator::host().allocate(bytes); }

void release(Device device, void* block, size_t bytes) {
  if (device.is_cuda())
    cuda::release(block, bytes);
  else
    Allocator::host().release(block, bytes);
}

void copy_bytes(void* to, Device to_device, const void* from, Device, size_t bytes) {
  if (bytes == 0) return;
  if (to_device.is_cuda())
    cuda::copy_to_device(to, from, bytes);
  else
    cuda::copy_to_host(to, from, bytes);
}

void synchronize(Device device) {
  if (device.is_cuda()) cuda::synchronize();
}

#else

namespace {

void expect_host(Device device) {
  if (device.is_cuda()) throw Error(2, "this ropewalk is built without CUDA: build it with cmake --preset cuda, or set run.device: cpu");
}

}  // namespace

bool available(Device device) { return !device.is_cuda(); }
std::string describe(Device) { return "the host"; }

void* allocate(Device device, size_t bytes) {
  expect_host(device);
  return Allocator::host().allocate(bytes);
}

void release(Device, void* block, size_t bytes) { Allocator::host().release(block, bytes); }

void copy_bytes(void*, Device to_device, const void*, Device from_device, size_t) {
  expect_host(to_device);
  expect_host(from_device);
}

void synchronize(Device) {}

#endif

}  // namespace ropewalk
