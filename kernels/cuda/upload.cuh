// Small tables that the host makes and a kernel reads: runs, offsets, plans.
#pragma once

#include <type_traits>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/tensor/tensor.h"

namespace ropewalk::cuda {

// An array on the GPU, alive as long as this is; given back behind the kernels launched before.
template <class T>
struct Uploaded {
  Tensor bytes;
  const T* data;
  int64_t count;
};

template <class T>
Uploaded<T> upload(const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  const size_t size = values.size() * sizeof(T);
  const Tensor bytes = Tensor::empty({static_cast<int64_t>(size)}, DType::kUInt8, Cuda{});
  if (size > 0) copy_to_device(bytes.raw(), values.data(), size);
  return {.bytes = bytes, .data = static_cast<const T*>(bytes.raw()), .count = static_cast<int64_t>(values.size())};
}

}  // namespace ropewalk::cuda
