// Walks over the elements of rows, a pack at a time: what ops that treat each element alone have in common.
#pragma once

#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/tensor/tensor.h"

namespace ropewalk::cuda {

// Calls body(row, column) for this thread's packs of n elements, neighbours next to each other. One division a thread, not one a pack.
// width > 0, a multiple of n.
template <int n, class Body>
__device__ void for_each_pack(int64_t rows, int64_t width, const Body& body) {
  const int64_t packs = width / n, step = static_cast<int64_t>(gridDim.x) * blockDim.x, step_rows = step / packs,
                step_packs = step - step_rows * packs, first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t row = first / packs, pack = first - row * packs;
  while (row < rows) {
    body(row, pack * n);
    row += step_rows;
    pack += step_packs;
    if (pack >= packs) {
      pack -= packs;
      ++row;
    }
  }
}

// Whether rows can be read n elements at a time.
template <class T>
bool packs(const Rows<T>& rows, int n) {
  return rows.width % n == 0 && packs(rows.data, rows.stride, n);
}

// Calls body.operator()<n>() with n elements a pack where all `rows` allow it, else with 1.
template <int n, class Body, class... T>
void with_packs(const Body& body, const Rows<T>&... rows) {
  (packs(rows, n) && ...) ? body.template operator()<n>() : body.template operator()<1>();
}

}  // namespace ropewalk::cuda
