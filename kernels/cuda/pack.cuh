// Sixteen bytes at a time: what a thread loads and stores where memory bounds a kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/tensor/dtype.h"

namespace ropewalk::cuda {

// n neighbouring elements, read and written as one.
template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T v[n];
};

template <class T>
constexpr int kPackWidth = 16 / sizeof(T);  // elements of sixteen bytes

template <int n, class T>
__device__ Pack<T, n> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, n>*>(from);
}
template <int n, class T>
__device__ void store_pack(T* to, const Pack<T, n>& pack) {
  *reinterpret_cast<Pack<T, n>*>(to) = pack;
}

// Whether rows `stride` elements apart, from `data` on, can be read n elements at a time.
template <class T>
bool packs(const T* data, int64_t stride, int n) {
  return reinterpret_cast<uintptr_t>(data) % (sizeof(T) * n) == 0 && stride % n == 0;
}

}  // namespace ropewalk::cuda
