#include "kernels/cuda/warps.cuh"
#include "kernels/sinkhorn/sinkhorn.h"

namespace ropewalk {
namespace {

using namespace cuda;

// Blocks along y are sequences, along x parts of their tokens. Between two launches stand the parts of sum_t c_te d0_t, [B, parts, E].
struct Sequences {
  int64_t tokens, experts;
  const float* logits;
  __device__ const float* token(int64_t t) const { return logits + (blockIdx.y * tokens + t) * experts; }
};

__device__ float scaled_down(float mass, float sum) { return mass / (sum + 1e-8f); }

// d1 from the parts of the iteration before; 1 in the first, which has none. Ends with a barrier.
__device__ void set_d1(const Sequences& s, const float* part, float* d1) {
  for (int64_t e = threadIdx.x; e < s.experts; e += blockDim.x) {
    float sum = 0;
    for (unsigned p = 0; part && p < gridDim.x; ++p) sum += part[(static_cast<int64_t>(blockIdx.y) * gridDim.x + p) * s.experts + e];
    d1[e] = part ? scaled_down(1 / static_cast<float>(s.experts), sum) : 1;
  }
  __syncthreads();
}

// d0 follows from d1 token by token, and scales a whole row of d0 c d1: neither the sums nor the argmax need it stored.
__global__ void iterate(Sequences s, const float* before, float* after) {
  SharedMemory shared;
  const int64_t warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
  float* const room = shared.take<float>(static_cast<size_t>(2 * s.experts * warps));
  float* const d1 = shared.take<float>(static_cast<size_t>(s.experts));
  float *const sums = room + warp * s.experts, *const cost = room + (warps + warp) * s.experts;
  for_each_of_lane(s.experts, [&](int e) { sums[e] = 0; });
  set_d1(s, before, d1);
  const float per_token = 1 / static_cast<float>(s.tokens);
  for_each_row_of_warp(s.tokens, [&](int64_t t) {
    const float* const l = s.token(t);
    const float top = row_max(s.experts, [&](int e) { return l[e]; });
    const float reached = row_sum(s.experts, [&](int e) { return (cost[e] = expf(2 * (l[e] - top))) * d1[e]; });
    const float d0 = scaled_down(per_token, reached);
    for_each_of_lane(s.experts, [&](int e) { sums[e] += cost[e] * d0; });
  });
  __syncthreads();
  for (int64_t e = threadIdx.x; e < s.experts; e += blockDim.x) {
    float sum = 0;
    for (int64_t w = 0; w < warps; ++w) sum += room[w * s.experts + e];
    after[(static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * s.experts + e] = sum;
  }
}

__global__ void assign(Sequences s, const float* before, int64_t* expert) {
  SharedMemory shared;
  float* const d1 = shared.take<float>(static_cast<size_t>(s.experts));
  set_d1(s, before, d1);
  for_each_row_of_warp(s.tokens, [&](int64_t t) {
    const float* const l = s.token(t);
    const float top = row_max(s.experts, [&](int e) { return l[e]; });
    const int best = first_largest(s.experts, [&](int e) { return expf(2 * (l[e] - top)) * d1[e]; });
    if (threadIdx.x % kWarp == 0) expert[blockIdx.y * s.tokens + t] = best;
  });
}

}  // namespace

void launch(Cuda, const Sinkhorn& args) {
  check(args);
  constexpr int64_t kBlocks = 132;  // of all sequences together: each adds up the parts of all blocks of its own
  const int64_t rows = args.logits_BTE.dim(0);
  const Sequences s{.tokens = args.logits_BTE.dim(1), .experts = args.logits_BTE.dim(2), .logits = args.logits_BTE.data<float>()};
  Grid grid = warps_over(s.tokens, 2 * s.experts, s.experts, std::max<int64_t>(1, kBlocks / std::max<int64_t>(1, rows)));
  grid.blocks.y = static_cast<unsigned>(rows);
  const Tensor parts = Tensor::empty({2, rows, static_cast<int64_t>(grid.blocks.x), s.experts}, DType::kFloat32, Cuda{});
  const float* before = nullptr;
  for (int64_t i = 0; i < args.iterations; ++i) {
    float* const after = parts.select(0, i % 2).data<float>();
    run(iterate, grid, s, before, after);
    before = after;
  }
  run(assign, grid, s, before, args.expert_BT.data<int64_t>());
}

}  // namespace ropewalk
