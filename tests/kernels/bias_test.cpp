#include "kernels/bias/bias.h"

#include <gmock/gmock.h>

#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_aligned_slice;
using testing::random_slice;
using testing::random_tensor;

Vars biased(const Vars& in) { return {add_bias(in[0], in[1])}; }

std::vector<Argument> arguments(const Tensor& x) {
  return {{"x", x}, {"bias", random_tensor({x.dim(-1)}, 2, 1, x.dtype()), Argument::kParameter}};
}

TEST(AddBias, AddsItToEachRow) {
  const Tensor x = random_slice({2, 3, 5}, 1), bias = random_tensor({5}, 2);
  auto expected = x.to_vector<double>();
  const auto b = bias.to_vector<double>();
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += b[i % 5];
  EXPECT_EQ(add_bias(x, bias).data().to_vector<double>(), expected);
}

TEST(AddBias, BackwardMatchesFiniteDifferences) {
  for (const Shape& shape : {Shape{1, 1}, Shape{5}, Shape{2, 3, 7}, Shape{70, 33}})
    testing::expect_gradients(arguments(random_slice(shape, 1)), biased);
}

TEST(AddBias, AddsToTheGradientOfItsBias) {
  testing::expect_gradients(arguments(random_tensor({4, 6}, 1)),
                            [](const Vars& in) { return Vars{add_bias(add_bias(in[0], in[1]), in[1])}; });
}

// A sum of many rounded gradients must not itself be rounded: bf16 stops counting at 256.
TEST(AddBias, SumsItsGradientInTheWideType) {
  for (const Device device : testing::devices()) {
    const Tensor x = Tensor::zeros({3000, 2}, DType::kBFloat16, device), seed = Tensor::full({3000, 2}, 1, DType::kBFloat16, device);
    const testing::Trace given = testing::trace(testing::on(device, arguments(x)), biased, {seed});
    EXPECT_EQ(given.gradients[1].dtype(), DType::kFloat32);
    EXPECT_EQ(given.gradients[1].to_vector<float>(), std::vector<float>(2, 3000));
  }
}

TEST(AddBias, NarrowTypesStayNearDouble) {
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kFloat32)), biased, 1e-6, 1e-5);
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kBFloat16)), biased, 4e-3, 2e-2);
}

TEST(AddBias, TakesRowsOfAnyWidthAndNumber) {
  for (const Shape& shape : {Shape{3, 8}, {5000, 136}, {7, 1032}, {300, 3088}, {2, 17000}}) {
    SCOPED_TRACE(shape.to_string());
    testing::expect_narrow_precision([&](DType dtype) { return arguments(random_aligned_slice(shape, 1, 1, dtype)); }, biased);
  }
  testing::expect_narrow_precision([](DType dtype) { return arguments(random_slice({3, 2500}, 1, 1, dtype)); }, biased);
}

TEST(AddBias, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments(random_tensor({3000, 65}, 1, 1, DType::kFloat32)), biased).all();
  });
}

TEST(AddBias, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}})
    for (const Device device : testing::devices()) {
      const Tensor nothing = Tensor::zeros(shape, DType::kFloat32, device);
      EXPECT_EQ(testing::trace(testing::on(device, arguments(nothing)), biased, {nothing}).gradients[0].shape(), shape);
    }
}

TEST(AddBias, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        add_bias(random_tensor({2, 4}, 1), random_tensor({5}, 2));
      },
      ::testing::ThrowsMessage<ShapeError>("add_bias: bias: expected fp64 [4] (last dim of x [2, 4]), given fp64 [5]"));
}

}  // namespace
}  // namespace ropewalk
