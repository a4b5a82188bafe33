// A warp for each row of a small table (experts of a token, say): its lanes take every 32nd entry each, and every warp has shared memory of
// its own.
#pragma once

#include <climits>

#include "kernels/cuda/reduce.cuh"

namespace ropewalk::cuda {

constexpr int kMostWarps = 8;  // a block

// Blocks along x for `rows` rows: at most `most` of them.
inline Grid warps_over(int64_t rows, int64_t floats_a_warp, int64_t floats_a_block = 0, int64_t most = 132 * 16) {
  constexpr size_t kMostShared = 200 << 10;
  const auto shared = [&](int warps) {
    return shared_bytes<float>(static_cast<size_t>(floats_a_warp * warps)) + shared_bytes<float>(static_cast<size_t>(floats_a_block));
  };
  int warps = kMostWarps;
  while (warps > 1 && shared(warps) > kMostShared) warps /= 2;
  const int64_t blocks = ceil_div(rows, warps);
  return {.blocks = dim3(static_cast<unsigned>(blocks < most ? blocks : most)),
          .threads = dim3(static_cast<unsigned>(warps * kWarp)),
          .shared = shared(warps)};
}

// Calls body(row) for the rows of this warp.
template <class Body>
__device__ void for_each_row_of_warp(int64_t rows, const Body& body) {
  const int64_t warps = blockDim.x / kWarp;
  for (int64_t row = blockIdx.x * warps + threadIdx.x / kWarp; row < rows; row += gridDim.x * warps) body(row);
}

// Calls body(i) for this lane's entries of n.
template <class Body>
__device__ void for_each_of_lane(int64_t n, const Body& body) {
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) body(static_cast<int>(i));
}

// The sum over a row of term(i), for all lanes.
template <class Term>
__device__ float row_sum(int64_t n, const Term& term) {
  float sum = 0;
  for_each_of_lane(n, [&](int i) { sum += term(i); });
  return warp_sum(sum);
}
template <class Term>
__device__ float row_max(int64_t n, const Term& term) {
  float most = Maximum::kNone;
  for_each_of_lane(n, [&](int i) { most = Maximum{}(most, term(i)); });
  return warp_max(most);
}

// The first i with the greatest value(i), for all lanes; 0 where none is greater than -infinity.
template <class Value>
__device__ int first_largest(int64_t n, const Value& value) {
  float best = Maximum::kNone;
  int first = INT_MAX;
  for_each_of_lane(n, [&](int i) {
    const float x = value(i);
    if (x > best) best = x, first = i;
  });
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, best, lanes);
    const int its = __shfl_xor_sync(kWholeWarp, first, lanes);
    if (other > best || (other == best && its < first)) best = other, first = its;
  }
  return first == INT_MAX ? 0 : first;
}

}  // namespace ropewalk::cuda
