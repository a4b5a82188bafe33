// What kernels, and the host, must not do to memory.
#include "tests/gpusim/memory.h"

#include <cmath>
#include <csignal>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/tensor/memory.h"
#include "tests/gpusim/support.h"

namespace ropewalk {
namespace {

using namespace cuda;
using testing::complaint;
using testing::floats_on_gpu;
using ::testing::HasSubstr;
using testing::run_block;

constexpr size_t kPageFloats = 1024;

__global__ void write_at(float* at) { *at = 1; }
__global__ void read_at(const float* at, float* to) { *to = *at; }

// A block of n floats, written at `at`, given back.
std::string write_and_release(size_t n, int64_t at) {
  return complaint([&] {
    float* const block = static_cast<float*>(allocate(n * sizeof(float)));
    run_block(write_at, 1, 0, block + at);
    release(block, n * sizeof(float));
  });
}

TEST(DeviceMemory, KeepsWhatKernelsWriteToIt) {
  for (const size_t n : {size_t{1}, size_t{7}, kPageFloats, 3 * kPageFloats + 5}) {
    EXPECT_EQ(write_and_release(n, 0), "") << n;
    EXPECT_EQ(write_and_release(n, static_cast<int64_t>(n) - 1), "") << n;
  }
}

TEST(DeviceMemory, NoticesWritesBesideABlock) {
  for (const size_t n : {size_t{1}, size_t{7}, size_t{100}}) {
    EXPECT_THAT(write_and_release(n, static_cast<int64_t>(n)),
                HasSubstr("written beside a block of " + std::to_string(n * sizeof(float)) + " bytes"));
    EXPECT_THAT(write_and_release(n, -1), HasSubstr("written beside a block")) << n;
  }
}

TEST(DeviceMemory, KillsWhoRunsFarOutOfABlock) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const size_t n : {size_t{64}, kPageFloats, 5 * kPageFloats}) {  // blocks that fill their last 256 bytes
    const Tensor neighbour = floats_on_gpu(static_cast<int64_t>(n)), block = floats_on_gpu(static_cast<int64_t>(n)),
                 behind = floats_on_gpu(static_cast<int64_t>(n));
    float* const data = block.data<float>();
    EXPECT_EXIT(
        {
          run_block(write_at, 1, 0, data + n);
          synchronize();
        },
        ::testing::KilledBySignal(SIGBUS), "")
        << n;
    EXPECT_EXIT(
        {
          run_block(read_at, 1, 0, data + n + kPageFloats - 1, data);
          synchronize();
        },
        ::testing::KilledBySignal(SIGBUS), "")
        << n;
  }
}

TEST(DeviceMemory, KillsWhoReadsOrWritesItOnTheHost) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Tensor x = Tensor::full({4}, 1, DType::kFloat32, Cuda{});
  synchronize();
  float* const data = x.data<float>();
  EXPECT_EXIT(std::exit(static_cast<int>(*static_cast<volatile float*>(data))), ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(*static_cast<volatile float*>(data) = 2, ::testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EQ(x.to_vector<float>(), std::vector<float>(4, 1));
}

TEST(DeviceMemory, IsFullOfNaNUntilItIsWritten) {
  const Tensor fresh = floats_on_gpu(100);
  for (const float value : fresh.to_vector<float>()) EXPECT_TRUE(std::isnan(value));
  for (const float value : Tensor::empty({100}, DType::kBFloat16, Cuda{}).to_vector<float>()) EXPECT_TRUE(std::isnan(value));
}

TEST(DeviceMemory, IsFullOfNaNAgainWhenItHasBeenGivenBack) {
  const Tensor to = floats_on_gpu(1);
  const float* stale = nullptr;
  {
    const Tensor x = Tensor::full({kPageFloats}, 1, DType::kFloat32, Cuda{});
    stale = x.data<float>();
  }
  run_block(read_at, 1, 0, stale, to.data<float>());
  EXPECT_TRUE(std::isnan(to.item()));
}

TEST(DeviceMemory, IsNaNBesideABlock) {
  const Tensor x = Tensor::full({3}, 1, DType::kFloat32, Cuda{}), to = floats_on_gpu(1);
  for (const int64_t at : {-1, 3, 4}) {
    run_block(read_at, 1, 0, x.data<float>() + at, to.data<float>());
    EXPECT_TRUE(std::isnan(to.item())) << at;
  }
}

TEST(DeviceMemory, IsGivenBackOnce) {
  void* const block = allocate(16);
  EXPECT_EQ(complaint([&] { release(block, 16); }), "");
  EXPECT_THAT(complaint([&] { release(block, 16); }), HasSubstr("freed twice"));
  void* const other = allocate(1024);
  EXPECT_THAT(complaint([&] { release(static_cast<char*>(other) + 256, 0); }), HasSubstr("was not allocated"));
  EXPECT_EQ(complaint([&] { release(other, 1024); }), "");
}

TEST(DeviceMemory, IsCopiedInTheDirectionThatIsSaid) {
  const Tensor x = floats_on_gpu(1);
  float host = 0;
  EXPECT_THAT(complaint([&] { copy_to_device(&host, x.raw(), sizeof host); }), HasSubstr("cudaErrorInvalidValue"));
  EXPECT_THAT(complaint([&] { copy_to_host(x.raw(), &host, sizeof host); }), HasSubstr("cudaErrorInvalidValue"));
}

template <int n>
__global__ void copy_pack(const float* from, float* to) {
  store_pack(to, load_pack<n>(from));
}

TEST(Packs, AreRefusedWhereTheyAreNotAligned) {
  const Tensor x = Tensor::full({16}, 1, DType::kFloat32, Cuda{}), y = floats_on_gpu(16);
  float *const from = x.data<float>(), *const to = y.data<float>();
  for (int at = 0; at < 8; ++at) {
    const auto of_loads = complaint([&] { run_block(copy_pack<4>, 1, 0, from + at, to); });
    const auto of_stores = complaint([&] { run_block(copy_pack<4>, 1, 0, from, to + at); });
    for (const std::string& given : {of_loads, of_stores}) {
      if (at % 4 == 0)
        EXPECT_EQ(given, "") << at;
      else
        EXPECT_THAT(given, HasSubstr("an address that is not aligned to 16 bytes")) << at;
    }
    EXPECT_EQ(complaint([&] { run_block(copy_pack<1>, 1, 0, from + at, to); }), "") << at;
  }
}

// Copies 16 bytes into shared memory while the thread goes on.
__global__ void copy_into_shared(bool with_wait, const float* from, float* to) {
  using Four = Pack<float, 4>;
  SharedMemory shared;
  Four* const room = shared.take<Four>(1);
  copy_later(room, reinterpret_cast<const Four*>(from), true);
  if (with_wait) wait_for_copies();
  store_pack(to, *room);
  if (!with_wait) wait_for_copies();
}

TEST(AsyncCopies, AreLateUntilTheyAreWaitedFor) {
  const Tensor x = Tensor::full({4}, 1, DType::kFloat32, Cuda{}), y = floats_on_gpu(4);
  run_block(copy_into_shared, 1, shared_bytes<float>(4), true, x.data<float>(), y.data<float>());
  EXPECT_EQ(y.to_vector<float>(), std::vector<float>(4, 1));
  run_block(copy_into_shared, 1, shared_bytes<float>(4), false, x.data<float>(), y.data<float>());
  for (const float value : y.to_vector<float>()) EXPECT_TRUE(std::isnan(value));
}

TEST(AsyncCopies, AreRefusedWhereTheyAreNotAligned) {
  const Tensor x = Tensor::full({16}, 1, DType::kFloat32, Cuda{}), y = floats_on_gpu(4);
  for (int at = 0; at < 8; ++at) {
    const std::string expected = at % 4 == 0 ? "" : "gpusim: an address that is not aligned to 16 bytes";
    EXPECT_EQ(complaint([&] { run_block(copy_into_shared, 1, shared_bytes<float>(4), true, x.data<float>() + at, y.data<float>()); }),
              expected);
  }
}

// Takes `count` floats, and reads one that nobody wrote.
__global__ void take_shared(size_t count, float* to) {
  SharedMemory shared;
  shared.take<float>(1);
  float* const room = shared.take<float>(count);
  if (to) *to = room[count - 1];
}

TEST(SharedMemory, IsNoMoreThanWasAskedFor) {
  const size_t given = shared_bytes<float>(1) + shared_bytes<float>(64);
  EXPECT_EQ(complaint([&] { run_block(take_shared, kWarp, given, 64, nullptr); }), "");
  for (const size_t count : {65, 1000})
    EXPECT_THAT(complaint([&] { run_block(take_shared, kWarp, given, count, nullptr); }),
                HasSubstr("takes more shared memory than the " + std::to_string(given) + " bytes that it was launched with"));
}

TEST(SharedMemory, IsFullOfNaNUntilItIsWritten) {
  const Tensor to = floats_on_gpu(1);
  run_block(take_shared, 1, shared_bytes<float>(1) + shared_bytes<float>(5), 5, to.data<float>());
  EXPECT_TRUE(std::isnan(to.item()));
}

// The second block finds what the first has left.
__global__ void leave_behind(float* to) {
  SharedMemory shared;
  float* const room = shared.take<float>(1);
  to[blockIdx.x] = *room;
  *room = 1;
}

TEST(SharedMemory, IsFullOfNaNAgainInTheNextBlock) {
  const Tensor to = floats_on_gpu(2);
  run(leave_behind, {.blocks = dim3(2), .threads = dim3(1), .shared = shared_bytes<float>(1)}, to.data<float>());
  for (const float value : to.to_vector<float>()) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace ropewalk
