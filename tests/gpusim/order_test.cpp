// Barriers: the simulator runs threads one after the other, so a kernel that lacks a barrier computes something all the same. That it is
// not the same in every order gives it away.
#include <cmath>

#include "kernels/cuda/reduce.cuh"
#include "tests/gpusim/support.h"

namespace ropewalk {
namespace {

using namespace cuda;
using testing::complaint;
using testing::floats_on_gpu;
using ::testing::HasSubstr;
using testing::run_block;

constexpr int kThreads = 64;
const std::vector<std::string> kOrders = {"ascending", "descending", "7", "8"};

class Order : public ::testing::Test {
 protected:
  void TearDown() override { gpusim::set_waking_order("ascending"); }
};
using Divergence = Order;

// Each thread hands its number to the one before it.
__global__ void hand_over(bool with_barrier, float* to) {
  SharedMemory shared;
  float* const room = shared.take<float>(kThreads);
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (with_barrier) __syncthreads();
  to[threadIdx.x] = room[(threadIdx.x + 1) % kThreads];
}

// Each thread reads what another has written, and then overwrites it.
__global__ void reuse(bool with_barrier, float* to) {
  SharedMemory shared;
  float* const room = shared.take<float>(kThreads);
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  to[threadIdx.x] = room[(threadIdx.x + 1) % kThreads];
  if (with_barrier) __syncthreads();
  room[threadIdx.x] = -1;
  __syncthreads();
  to[threadIdx.x] += room[threadIdx.x];
}

std::vector<float> in_order(const std::string& order, void (*kernel)(bool, float*), bool with_barrier) {
  gpusim::set_waking_order(order);
  const Tensor to = floats_on_gpu(kThreads);
  run_block(kernel, kThreads, shared_bytes<float>(kThreads), with_barrier, to.data<float>());
  return to.to_vector<float>();
}

bool same_bits(const std::vector<float>& x, const std::vector<float>& y) {
  return std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

TEST_F(Order, ChangesResultsWhereABarrierIsMissing) {
  for (const auto kernel : {hand_over, reuse}) {
    const std::vector<float> ascending = in_order("ascending", kernel, false);
    EXPECT_FALSE(same_bits(ascending, in_order("descending", kernel, false)));
    EXPECT_FALSE(same_bits(ascending, in_order("7", kernel, false)));
  }
}

TEST_F(Order, ChangesNothingWhereAllBarriersAreThere) {
  for (const auto kernel : {hand_over, reuse}) {
    const std::vector<float> ascending = in_order("ascending", kernel, true);
    EXPECT_EQ(ascending[5], kernel == hand_over ? 6 : 5);
    for (const std::string& order : kOrders) EXPECT_TRUE(same_bits(ascending, in_order(order, kernel, true))) << order;
  }
}

// Which thread writes last.
__global__ void write_over(float* to) { *to = static_cast<float>(threadIdx.x); }

TEST_F(Order, IsTheSameForTheSameSeed) {
  const auto last = [](const std::string& order) {
    gpusim::set_waking_order(order);
    const Tensor to = floats_on_gpu(1);
    run_block(write_over, 1024, 0, to.data<float>());
    return to.item();
  };
  EXPECT_EQ(last("ascending"), 1023);
  EXPECT_EQ(last("descending"), 0);
  EXPECT_EQ(last("7"), last("7"));
  EXPECT_NE(last("7"), last("8"));
}

enum class Fault { kNone, kEndsEarly, kOtherBranch, kShuffleEndsEarly, kShuffleOtherBranch, kNotInMask };

__global__ void diverge(Fault fault, float* to) {
  const bool odd = threadIdx.x % 2 == 1, last = threadIdx.x == kThreads - 1;
  if (fault == Fault::kEndsEarly || fault == Fault::kShuffleEndsEarly)
    if (last) return;
  if (fault == Fault::kEndsEarly || (fault == Fault::kOtherBranch && !odd)) __syncthreads();
  if (fault == Fault::kShuffleEndsEarly || (fault == Fault::kShuffleOtherBranch && !odd)) to[threadIdx.x] = warp_sum(1);
  if (fault == Fault::kOtherBranch && odd) to[threadIdx.x] = __shfl_sync(0xaaaaaaaa, 1.0f, 1);
  if (fault == Fault::kShuffleOtherBranch && odd) __syncthreads();
  if (fault == Fault::kNotInMask) to[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1);
  __syncthreads();
}

std::string complaint_about(Fault fault) {
  const Tensor to = floats_on_gpu(kThreads);
  return complaint([&] { run_block(diverge, kThreads, 0, fault, to.data<float>()); });
}

TEST_F(Divergence, IsNoticedAtABarrierInEveryOrder) {
  for (const std::string& order : kOrders) {
    gpusim::set_waking_order(order);
    EXPECT_EQ(complaint_about(Fault::kNone), "");
    EXPECT_THAT(complaint_about(Fault::kEndsEarly), HasSubstr("a __syncthreads that not all its threads reach"));
    EXPECT_THAT(complaint_about(Fault::kOtherBranch), HasSubstr("that not all its threads reach"));
  }
}

TEST_F(Divergence, IsNoticedInAWarp) {
  for (const std::string& order : kOrders) {
    gpusim::set_waking_order(order);
    EXPECT_THAT(complaint_about(Fault::kShuffleEndsEarly), HasSubstr("that not all its threads reach"));
    EXPECT_THAT(complaint_about(Fault::kShuffleOtherBranch), HasSubstr("that not all its threads reach"));
    EXPECT_THAT(complaint_about(Fault::kNotInMask), HasSubstr("without its own lane in the mask"));
  }
}

// A sum of a warp's lanes, a maximum of a block's threads.
__global__ void reductions(float* to) {
  SharedMemory shared;
  float* const room = shared.take<float>(kWarp);
  const auto mine = static_cast<float>(threadIdx.x);
  to[2 * threadIdx.x] = warp_sum(mine);
  to[2 * threadIdx.x + 1] = block_max(mine, room);
}

TEST_F(Order, LeavesExchangesOfLanesAlone) {
  for (const std::string& order : kOrders) {
    gpusim::set_waking_order(order);
    const Tensor to = floats_on_gpu(2 * kThreads);
    run_block(reductions, kThreads, shared_bytes<float>(kWarp), to.data<float>());
    const std::vector<float> given = to.to_vector<float>();
    EXPECT_EQ(given[0], 31 * 16);
    EXPECT_EQ(given[2 * 33], 31 * 16 + 32 * 32);
    for (int i = 0; i < kThreads; ++i) EXPECT_EQ(given[static_cast<size_t>(2 * i + 1)], kThreads - 1);
  }
}

}  // namespace
}  // namespace ropewalk
