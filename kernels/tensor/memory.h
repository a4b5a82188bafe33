// The bytes of tensors, on the host and on this rank's GPU.
#pragma once

#include <cstddef>
#include <string>

#include "kernels/tensor/device.h"

namespace ropewalk {

// Whether this program can use such a device here.
bool available(Device device);
std::string describe(Device device);  // of one that is available: "NVIDIA H100 80GB HBM3, sm_90, .."

void* allocate(Device device, size_t bytes);
void release(Device device, void* block, size_t bytes);
// Between two devices, of which one is the host. The source may change, and the target be read on its device, as soon as this returns.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, size_t bytes);
// Until all that was launched there is done.
void synchronize(Device device);

}  // namespace ropewalk
