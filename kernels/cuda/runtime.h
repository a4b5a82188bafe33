// This rank's GPU: its memory and the stream that kernels run on. One GPU a rank, one stream of kernels: they run in the order of their
// launches, and memory that is given back is handed out again behind the kernels that still use it.
//
// A call that fails ends the operation with an Error of exit code 5 that names the call and what CUDA says.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "kernels/tensor/allocator.h"

namespace ropewalk::cuda {

void check(cudaError_t code, const char* call);

// Whether this machine has a GPU that this program can use.
bool available();
// "NVIDIA H100 80GB HBM3, sm_90, 132 multiprocessors, 79.1 GiB; driver 13.0, run time 13.0".
std::string describe();

cudaStream_t compute_stream();
void synchronize();  // until all launched so far is done

// 256-byte aligned; contents undefined. Ordered by the compute stream.
void* allocate(size_t bytes);
void release(void* block, size_t bytes);
MemoryStats memory_stats();
void reset_peak();

// Ordered by the compute stream. The host's bytes may change as soon as the first returns; the second returns when they are there.
void copy_to_device(void* to, const void* from, size_t bytes);
void copy_to_host(void* to, const void* from, size_t bytes);

}  // namespace ropewalk::cuda
