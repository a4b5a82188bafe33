#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/cross_entropy/scored.cuh"
#include "kernels/cuda/reduce.cuh"

namespace ropewalk::cuda {
namespace {

// One block; each of its warps takes one stretch of the tokens.
__global__ void list_scored(int64_t tokens, const int64_t* target, int* token, int* count) {
  SharedMemory shared;
  int* const of_warps = shared.take<int>(kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t stretch = ceil_div(tokens, warps * kWarp) * kWarp, begin = warp * stretch;
  const int64_t end = begin + stretch < tokens ? begin + stretch : tokens;
  // Calls body(token, whether it is scored, which lanes' are) for a token a lane.
  const auto for_each_of_warp = [&](const auto& body) {
    for (int64_t i = begin + lane; i - lane < end; i += kWarp) {
      const bool scored = i < end && target[i] != kIgnored;
      body(i, scored, __ballot_sync(kWholeWarp, scored));
    }
  };
  int found = 0;
  for_each_of_warp([&](int64_t, bool, unsigned lanes) { found += __popc(lanes); });
  if (lane == 0) of_warps[warp] = found;
  __syncthreads();
  int place = 0;
  for (int w = 0; w < warp; ++w) place += of_warps[w];
  if (warp == warps - 1 && lane == 0) *count = place + found;
  for_each_of_warp([&](int64_t i, bool scored, unsigned lanes) {
    if (scored) token[place + __popc(lanes & ((1u << lane) - 1))] = static_cast<int>(i);
    place += __popc(lanes);
  });
}

}  // namespace

Scored scored_tokens(const Tensor& target) {
  constexpr int kThreads = 1024;
  const Scored scored{.token = Tensor::empty({target.numel()}, DType::kInt32, Cuda{}), .count = Tensor::empty({1}, DType::kInt32, Cuda{})};
  run(list_scored, {.blocks = dim3(1), .threads = dim3(kThreads), .shared = shared_bytes<int>(kWarp)}, target.numel(),
      target.data<int64_t>(), scored.token.data<int>(), scored.count.data<int>());
  return scored;
}

}  // namespace ropewalk::cuda
