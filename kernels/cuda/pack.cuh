// Sixteen bytes at a time: what a thread loads and stores where memory bounds a kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/tensor/dtype.h"

namespace ropewalk::cuda {

// What an access of n elements can be aligned to.
template <class T>
constexpr size_t pack_alignment(int n) {
  return sizeof(T) * n < 16 ? sizeof(T) * n : 16;
}

// n neighbouring elements, read and written sixteen bytes at once.
template <class T, int n>
struct alignas(pack_alignment<T>(n)) Pack {
  T v[n];
};

template <class T>
constexpr int kPackWidth = 16 / sizeof(T);  // elements of sixteen bytes

// At places aligned to the pack: elsewhere a GPU ends the program.
template <int n, class T>
__device__ Pack<T, n> load_pack(const T* from) {
#ifdef ROPEWALK_GPUSIM
  gpusim::check_aligned(from, alignof(Pack<T, n>));
#endif
  return *reinterpret_cast<const Pack<T, n>*>(from);
}
template <int n, class T>
__device__ void store_pack(T* to, const Pack<T, n>& pack) {
#ifdef ROPEWALK_GPUSIM
  gpusim::check_aligned(to, alignof(Pack<T, n>));
#endif
  *reinterpret_cast<Pack<T, n>*>(to) = pack;
}

// Whether rows `stride` elements apart, from `data` on, can be read n elements at a time.
template <class T>
bool packs(const T* data, int64_t stride, int n) {
  constexpr auto bytes = static_cast<int64_t>(sizeof(T));
  const auto alignment = static_cast<int64_t>(pack_alignment<T>(n));
  return reinterpret_cast<uintptr_t>(data) % pack_alignment<T>(n) == 0 && stride * bytes % alignment == 0;
}

}  // namespace ropewalk::cuda
