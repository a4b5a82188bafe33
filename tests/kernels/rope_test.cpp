#include "kernels/rope/rope.h"

#include <gmock/gmock.h>

#include "tests/reference/rope.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_tensor;

// Documents of several lengths, one of a single token, and a rank that holds a later piece of a long one.
Tensor positions(int64_t batch, int64_t length) {
  std::vector<int64_t> values;
  for (int64_t row = 0; row < batch; ++row)
    for (int64_t s = 0; s < length; ++s) values.push_back(row % 2 ? 100000 + s : s < 2 ? s : s == 2 ? 0 : s - 3);
  return Tensor::from({batch, length}, values);
}

// A slice of a fused projection, seen as heads.
Tensor sliced(const Shape& shape, uint64_t seed, DType dtype = DType::kFloat64) {
  return testing::random_slice({shape[0], shape[1], shape[2] * shape[3]}, seed, 1, dtype).split_dim(-1, shape[3]);
}

auto turned(const Tensor& position, double fraction = 1) {
  return [=](const Vars& in) { return Vars{rope(in[0], position, {.fraction = fraction})}; };
}

const std::vector<Shape> kShapes = {{1, 1, 1, 2}, {2, 7, 1, 6}, {3, 5, 4, 10}, {1, 9, 2, 64}};

TEST(Rope, EqualsItsDefinition) {
  for (const double theta : {10000.0, 5e5})
    for (const Shape& shape : kShapes)
      for (const Tensor& x : {random_tensor(shape, 1), sliced(shape, 1),
                              random_tensor({shape[0], shape[1] + 2, shape[2], shape[3]}, 1).narrow(1, 1, shape[1])}) {
        const Tensor position = positions(shape[0], shape[1]);
        const auto expected = reference::rope(x.to_vector<double>(), position.to_vector<int64_t>(), static_cast<size_t>(shape[2]),
                                              static_cast<size_t>(shape[3]), theta);
        const Tensor y = rope(x, position, {.theta = theta}).data();
        EXPECT_TRUE(y.contiguous());
        EXPECT_TENSOR_NEAR(y, Tensor::from(shape, expected), 1e-10) << shape.to_string();
      }
}

TEST(Rope, BackwardMatchesFiniteDifferences) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(shape.to_string());
    testing::expect_gradients({{"x", random_tensor(shape, 1)}}, turned(positions(shape[0], shape[1])));
    testing::expect_gradients({{"x", sliced(shape, 1)}}, turned(positions(shape[0], shape[1])));
  }
}

// The first channels of each head as if they were all of it, the others as they are.
TEST(Rope, OfAFractionTurnsTheFirstChannelsAlone) {
  const Shape shape = {2, 7, 3, 10};
  const Tensor position = positions(2, 7);
  for (const Tensor& x : {random_tensor(shape, 1), sliced(shape, 1)}) {
    const Tensor y = rope(x, position, {.theta = 500, .fraction = 0.6}).data(), front = x.narrow(-1, 0, 6);
    const auto expected = reference::rope(front.to_vector<double>(), position.to_vector<int64_t>(), 3, 6, 500);
    EXPECT_TENSOR_NEAR(y.narrow(-1, 0, 6), Tensor::from({2, 7, 3, 6}, expected), 1e-10);
    EXPECT_EQ(y.narrow(-1, 6, 4).to_vector<double>(), x.narrow(-1, 6, 4).to_vector<double>());
    testing::expect_gradients({{"x", x}}, turned(position, 0.6));
  }
}

TEST(Rope, KnowsWhichFractionsGiveWholePairs) {
  EXPECT_EQ(rotated_channels({.fraction = 0.25}, 256), 64);
  EXPECT_EQ(rotated_channels({.fraction = 0.3}, 20), 6);
  EXPECT_EQ(rotated_channels({.fraction = 0.3}, 10), std::nullopt);   // 3
  EXPECT_EQ(rotated_channels({.fraction = 0.25}, 10), std::nullopt);  // 2.5
  EXPECT_EQ(rotated_channels({.fraction = 1.5}, 8), std::nullopt);
}

TEST(Rope, DependsOnRelativePositionsOnly) {
  const Tensor q = random_tensor({1, 2, 1, 16}, 1), k = random_tensor({1, 2, 1, 16}, 2);
  const auto score = [&](int64_t q_position, int64_t k_position) {
    const Tensor position = Tensor::from<int64_t>({1, 2}, {q_position, k_position});
    const auto a = rope(q, position, {}).data().to_vector<double>(), b = rope(k, position, {}).data().to_vector<double>();
    double sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += a[i] * b[16 + i];
    return sum;
  };
  EXPECT_NEAR(score(9, 4), score(1009, 1004), 1e-11);
  EXPECT_GT(std::abs(score(9, 4) - score(9, 5)), 1e-3);
}

TEST(Rope, TakesGradientsOfAnyStrides) {
  const Shape shape = {2, 3, 2, 4};
  const Tensor x = random_tensor(shape, 1);
  const Tensor strided = random_tensor({2, 3, 2, 4, 2}, 3).select(-1, 1);  // its last dim is not dense
  ASSERT_EQ(strided.stride(-1), 2);
  const auto apply = turned(positions(2, 3));
  const testing::Trace given = testing::trace({{"x", x}}, apply, {strided});
  const testing::Trace dense = testing::trace({{"x", x}}, apply, {strided.contiguous_copy()});
  EXPECT_EQ(given.gradients[0].to_vector<double>(), dense.gradients[0].to_vector<double>());
}

TEST(Rope, NarrowTypesStayNearDoubleFarIntoADocument) {
  testing::expect_precision({{"x", sliced({2, 50, 3, 64}, 1, DType::kFloat32)}}, turned(positions(2, 50)), 1e-5, 1e-5);
  testing::expect_precision({{"x", sliced({2, 50, 3, 64}, 1, DType::kBFloat16)}}, turned(positions(2, 50)), 1e-2, 2e-2);
}

TEST(Rope, NarrowTypesTurnAnyHeads) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-5 : 1e-2;
    for (const Shape& shape : {Shape{2, 7, 5, 64}, Shape{3, 4, 9, 32}, Shape{1, 3, 1, 10}, Shape{2, 3, 4, 20}})
      for (const double fraction : {0.0, 0.5, 0.8, 1.0}) {
        if (!rotated_channels({.fraction = fraction}, shape[3])) continue;
        SCOPED_TRACE(shape.to_string());
        testing::expect_precision({{"x", random_tensor(shape, 1, 1, dtype)}}, turned(positions(shape[0], shape[1]), fraction), tolerance,
                                  2 * tolerance);
      }
  }
}

TEST(Rope, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace({{"x", random_tensor({2, 600, 4, 34}, 1, 1, DType::kFloat32)}}, turned(positions(2, 600))).all();
  });
}

TEST(Rope, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 3, 2, 4}, Shape{2, 0, 2, 4}, Shape{2, 3, 0, 4}, Shape{2, 3, 2, 0}}) {
    const testing::Trace given = testing::trace({{"x", Tensor::zeros(shape, DType::kFloat32)}}, turned(positions(shape[0], shape[1])),
                                                {Tensor::zeros(shape, DType::kFloat32)});
    EXPECT_EQ(given.outputs[0].shape(), shape);
    EXPECT_EQ(given.gradients[0].shape(), shape);
  }
}

TEST(Rope, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        rope(random_tensor({1, 2, 3, 5}, 1), positions(1, 2), {});
      },
      ::testing::ThrowsMessage<ShapeError>("rope: fraction: expected an even part of the 5 channels of a head, given 1"));
  EXPECT_THAT(
      [] {
        rope(random_tensor({1, 2, 3, 4}, 1), positions(1, 3), {});
      },
      ::testing::ThrowsMessage<ShapeError>("rope: position: expected int64 [1, 2], given int64 [1, 3]"));
}

}  // namespace
}  // namespace ropewalk
