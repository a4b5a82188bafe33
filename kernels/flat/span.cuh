// What the CUDA halves over flat spans share: the optimizers' walk, and sums in double in an order that the size alone decides.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/flat/flat.h"

namespace ropewalk::cuda {

// Shared memory for it: shared_bytes<double>(kWarp). A block of whole warps along x. Thread 0 alone gets the sum.
__device__ inline double block_sum_in_double(double x) {
  SharedMemory shared;
  double* const of_warp = shared.take<double>(kWarp);
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) sum += of_warp[warp];
  return sum;
}

// sum[i] += parts[0][i] + parts[1][i] + ..; parts [P, n] in double.
void add_double_parts(const Tensor& parts, double* sum);

// A rule changes n neighbouring weights from element i on, and what the optimizer keeps beside them:
//   template <int n> Pack<float, n> operator()(int64_t i, const Pack<float, n>& master) const
template <int n, class T, class Rule>
__device__ void update_pack(int64_t i, float* master, T* working, const Rule& rule, double& update, double& weight) {
  const auto before = load_pack<n>(master + i);
  const Pack<float, n> after = rule.template operator()<n>(i, before);
  Pack<T, n> rounded;
  for (int k = 0; k < n; ++k) {
    const double change = after.v[k] - before.v[k], value = after.v[k];
    update += change * change;
    weight += value * value;
    rounded.v[k] = static_cast<T>(after.v[k]);
  }
  store_pack(master + i, after);
  if (working) store_pack(working + i, rounded);
}

// parts [blocks, 2], or null.
template <int n, class T, class Rule>
__global__ void update_span(int64_t count, float* master, T* working, Rule rule, double* parts) {
  double update = 0, weight = 0;
  for_each_item(ceil_div(count, n), [&](int64_t item) {
    const int64_t i = item * n;
    if (i + n <= count)
      update_pack<n>(i, master, working, rule, update, weight);
    else
      for (int64_t j = i; j < count; ++j) update_pack<1>(j, master, working, rule, update, weight);
  });
  if (!parts) return;
  update = block_sum_in_double(update);
  weight = block_sum_in_double(weight);
  if (threadIdx.x == 0) {
    parts[2 * blockIdx.x] = update;
    parts[2 * blockIdx.x + 1] = weight;
  }
}

// Updates master [n] and the working copy, which may be null, by rule; adds to squares [2], which may be empty. `aligned`: whether what the
// rule reads and writes can be taken four elements at a time.
template <class T, class Rule>
void update_span(int64_t n, float* master, T* working, const Tensor& squares, const Rule& rule, bool aligned, const char* squares_name) {
  constexpr int kPack = kPackWidth<float>;
  double* const sums = squares ? span_of<double>(squares, 2, squares_name) : nullptr;
  const auto launch = [&]<int pack>() {
    Grid grid = grid_for(ceil_div(n, pack));
    grid.shared = shared_bytes<double>(kWarp);
    const Tensor parts = sums ? Tensor::empty({grid.blocks.x, 2}, DType::kFloat64, Cuda{}) : Tensor();
    run(update_span<pack, T, Rule>, grid, n, master, working, rule, parts ? parts.data<double>() : nullptr);
    if (sums) add_double_parts(parts, sums);
  };
  aligned&& packs(master, 0, kPack) && packs(working, 0, kPack) ? launch.template operator()<kPack>() : launch.template operator()<1>();
}

}  // namespace ropewalk::cuda
