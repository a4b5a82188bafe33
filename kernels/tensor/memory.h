// The bytes of tensors, on the host and on this rank's GPU.
#pragma once

#include <cstddef>

#include "kernels/tensor/device.h"

namespace ropewalk {

// Whether this program can use such a device here.
bool available(Device device);

void* allocate(Device device, size_t bytes);
void release(Device device, void* block, size_t bytes);
// Between two devices, of which one is the host. The source may change, and the target be read on its device, as soon as this returns.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, size_t bytes);

}  // namespace ropewalk
