#include <gtest/gtest.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/tensor/memory.h"
#include "kernels/tensor/philox.h"
#include "kernels/tensor/tensor.h"

namespace ropewalk {
namespace {

__global__ void draw(int64_t n, Philox philox, uint64_t first, int64_t* integers, double* uniforms) {
  cuda::for_each_item(n, [&](int64_t i) {
    integers[i] = static_cast<int64_t>(philox.integer(first + static_cast<uint64_t>(i)));
    uniforms[i] = philox.uniform(first + static_cast<uint64_t>(i));
  });
}

TEST(Philox, GivesTheSameNumbersOnAGpu) {
  if (!available(Cuda{})) GTEST_SKIP() << "no GPU here";
  constexpr int64_t kNumbers = 5000;
  for (const uint64_t seed : {0x0ull, 0x299f31d0a4093822ull})
    for (const uint64_t first : {0x0ull, 0xfffffff0ull, 0xfffffffffffff000ull}) {
      const Philox philox(seed, "of a test");
      const Tensor integers = Tensor::empty({kNumbers}, DType::kInt64, Cuda{}),
                   uniforms = Tensor::empty({kNumbers}, DType::kFloat64, Cuda{});
      cuda::run(draw, cuda::grid_for(kNumbers), kNumbers, philox, first, integers.data<int64_t>(), uniforms.data<double>());
      const auto integers_here = integers.to_vector<int64_t>();
      const auto uniforms_here = uniforms.to_vector<double>();
      for (size_t i = 0; i < kNumbers; ++i) {
        EXPECT_EQ(static_cast<uint64_t>(integers_here[i]), philox.integer(first + i));
        EXPECT_EQ(uniforms_here[i], philox.uniform(first + i));
      }
    }
}

}  // namespace
}  // namespace ropewalk
