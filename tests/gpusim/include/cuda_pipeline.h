// Stand-in: asynchronous copies happen as late as they may, when their thread waits for them.
#pragma once

#include <cuda_runtime.h>

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) { gpusim::copy_later(to, from, bytes); }
inline void __pipeline_commit() { gpusim::commit_copies(); }
inline void __pipeline_wait_prior(size_t groups) { gpusim::wait_for_copies(groups); }
