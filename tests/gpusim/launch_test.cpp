// Launches: what a GPU refuses, and that nothing happens before something orders it.
#include <stdexcept>

#include "kernels/tensor/memory.h"
#include "tests/gpusim/support.h"

namespace ropewalk {
namespace {

using namespace cuda;
using testing::complaint;
using testing::floats_on_gpu;
using ::testing::HasSubstr;
using testing::run_block;

__global__ void count(int* blocks, int* threads) {
  ++*threads;
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) ++*blocks;
}

std::string complaint_about(const Grid& grid) {
  const Tensor counts = Tensor::zeros({2}, DType::kInt32, Cuda{});
  return complaint([&] { run(count, grid, counts.data<int>(), counts.data<int>() + 1); });
}

TEST(Launch, TakesWhatAGpuTakes) {
  for (const Grid& grid :
       {Grid{.blocks = dim3(1), .threads = dim3(1024)}, Grid{.blocks = dim3(1), .threads = dim3(1, 32, 32)},
        Grid{.blocks = dim3(70000), .threads = dim3(1)}, Grid{.blocks = dim3(1), .threads = dim3(1), .shared = 227 << 10}})
    EXPECT_EQ(complaint_about(grid), "");
}

TEST(Launch, RefusesWhatAGpuRefuses) {
  for (const Grid& grid : {Grid{.blocks = dim3(1), .threads = dim3(1025)}, Grid{.blocks = dim3(1), .threads = dim3(33, 32)},
                           Grid{.blocks = dim3(1), .threads = dim3(0)}, Grid{.blocks = dim3(1, 65536), .threads = dim3(1)},
                           Grid{.blocks = dim3(1, 1, 65536), .threads = dim3(1)}, Grid{.blocks = dim3(1), .threads = dim3(1, 1, 65)},
                           Grid{.blocks = dim3(1), .threads = dim3(1), .shared = (227 << 10) + 1}})
    EXPECT_THAT(complaint_about(grid), HasSubstr("(cudaErrorInvalid"));
}

TEST(Launch, RunsEveryThreadOnce) {
  const Tensor counts = Tensor::zeros({2}, DType::kInt32, Cuda{});
  run(count, {.blocks = dim3(3, 2, 2), .threads = dim3(8, 4, 2)}, counts.data<int>(), counts.data<int>() + 1);
  EXPECT_EQ(counts.to_vector<int>(), (std::vector<int>{12, 12 * 64}));
}

TEST(Launch, OfNoBlocksIsNone) {
  const Tensor counts = Tensor::zeros({2}, DType::kInt32, Cuda{});
  run(count, {.blocks = dim3(4, 0), .threads = dim3(32)}, counts.data<int>(), counts.data<int>() + 1);
  EXPECT_EQ(counts.to_vector<int>(), (std::vector<int>{0, 0}));
}

int ran = 0;
__global__ void run_later() { ++ran; }

TEST(Launch, IsLateUntilSomethingOrdersIt) {
  synchronize();
  ran = 0;
  run_block(run_later, 1, 0);
  EXPECT_EQ(ran, 0);
  synchronize();
  EXPECT_EQ(ran, 1);
}

__global__ void fail() { throw std::runtime_error("of a kernel"); }

TEST(Launch, CanBeFollowedByOthersAfterOneThatFails) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(complaint([] { run_block(fail, kWarp, 0); }), "of a kernel");
    EXPECT_EQ(complaint_about({.blocks = dim3(2), .threads = dim3(kWarp)}), "");
  }
}

}  // namespace
}  // namespace ropewalk
