#include "kernels/scale_segments/scale_segments.h"

#include <gmock/gmock.h>

#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_slice;
using testing::random_tensor;

const std::vector<Segment> kSegments = {{3, 0.5}, {1, -2}, {0, 7}, {5, 0.25}};

Vars scaled(const Vars& in) { return {scale_segments(in[0], kSegments)}; }

TEST(ScaleSegments, GivesEachSegmentItsFactor) {
  const Tensor x = random_slice({2, 2, 9}, 1);
  auto expected = x.to_vector<double>();
  for (size_t i = 0; i < expected.size(); ++i) expected[i] *= i % 9 < 3 ? 0.5 : i % 9 < 4 ? -2 : 0.25;
  EXPECT_EQ(scale_segments(x, kSegments).data().to_vector<double>(), expected);
}

TEST(ScaleSegments, BackwardMatchesFiniteDifferences) {
  testing::expect_gradients({{"x", random_slice({3, 2, 9}, 1)}}, scaled);
  testing::expect_gradients({{"x", random_tensor({9}, 1)}}, scaled);
}

TEST(ScaleSegments, NarrowTypesStayNearDouble) {
  testing::expect_precision({{"x", random_slice({40, 9}, 1, 1, DType::kFloat32)}}, scaled, 1e-6, 1e-6);
  testing::expect_precision({{"x", random_slice({40, 9}, 1, 1, DType::kBFloat16)}}, scaled, 4e-3, 4e-3);
  const auto by_packs = [](const Vars& in) { return Vars{scale_segments(in[0], {{16, 0.5}, {0, 3}, {8, -2}, {8, 0.3}})}; };
  testing::expect_precision({{"x", random_tensor({40, 32}, 1, 1, DType::kFloat32)}}, by_packs, 1e-6, 1e-6);
  testing::expect_precision({{"x", random_tensor({40, 32}, 1, 1, DType::kBFloat16)}}, by_packs, 4e-3, 4e-3);
}

TEST(ScaleSegments, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace({{"x", random_tensor({9000, 9}, 1, 1, DType::kFloat32)}}, scaled).all();
  });
}

TEST(ScaleSegments, TakesEmptyTensors) {
  EXPECT_EQ(scale_segments(Tensor::zeros({0, 9}, DType::kFloat32), kSegments).shape(), (Shape{0, 9}));
}

TEST(ScaleSegments, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        scale_segments(random_tensor({2, 8}, 1), kSegments);
      },
      ::testing::ThrowsMessage<ShapeError>("scale_segments: segments: expected widths whose sum is the last dim of x [2, 8], given 9"));
}

}  // namespace
}  // namespace ropewalk
