// Copies from device memory to shared memory that go on while the thread does other things. What they bring is there for the thread after
// wait_for_copies(), and for the block after a barrier behind that.
#pragma once

#include <cuda_pipeline.h>

#include "kernels/cuda/pack.cuh"

namespace ropewalk::cuda {

// An item of 4, 8 or 16 bytes, aligned to as many; T() where it is not `there`, and then `from` may be anything.
template <class T>
__device__ void copy_later(T* to, const T* from, bool there) {
  if (there)
    __pipeline_memcpy_async(to, from, sizeof(T));
  else
    *to = T();
}

__device__ inline void wait_for_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

}  // namespace ropewalk::cuda
