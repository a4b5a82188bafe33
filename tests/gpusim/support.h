// Small kernels run to their end, and what the simulator says to them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "kernels/cuda/launch.cuh"
#include "kernels/tensor/tensor.h"
#include "tests/gpusim/block.h"

namespace ropewalk::testing {

inline Tensor floats_on_gpu(int64_t n) { return Tensor::empty({n}, DType::kFloat32, Cuda{}); }

// One block.
template <class... Parameters, class... Args>
void run_block(void (*kernel)(Parameters...), int threads, size_t shared, Args&&... args) {
  cuda::run(kernel, {.blocks = dim3(1), .threads = dim3(static_cast<unsigned>(threads)), .shared = shared}, std::forward<Args>(args)...);
}

// What `fault` throws, at once or when the GPU is waited for; empty where it does not.
template <class Fault>
std::string complaint(const Fault& fault) {
  try {
    fault();
    cuda::synchronize();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace ropewalk::testing
