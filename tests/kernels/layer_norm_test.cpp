#include "kernels/layer_norm/layer_norm.h"

#include <gmock/gmock.h>

#include "tests/reference/layer_norm.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_aligned_slice;
using testing::random_slice;
using testing::random_tensor;

constexpr double kEps = 1e-5;

// In the dtype of x.
Vars norm(const Vars& in) { return {layer_norm(in[0], in[1], in[2], kEps, in[0].dtype())}; }

std::vector<Argument> arguments(const Tensor& x) {
  const Shape width{x.dim(-1)};
  return {{"x", x},
          {"weight", random_tensor(width, 2, 1, wide(x.dtype())), Argument::kParameter},
          {"bias", random_tensor(width, 3, 1, wide(x.dtype())), Argument::kParameter}};
}

const std::vector<Shape> kShapes = {{1, 2}, {5}, {2, 3, 7}, {3, 64}, {70, 33}};

TEST(LayerNorm, EqualsItsDefinition) {
  for (const Shape& shape : kShapes)
    for (const Tensor& x : {random_tensor(shape, 1), random_slice(shape, 1)}) {
      const std::vector<Argument> in = arguments(x);
      const Tensor expected = Tensor::from(
          shape, reference::layer_norm(x.to_vector<double>(), in[1].value.to_vector<double>(), in[2].value.to_vector<double>(), kEps));
      EXPECT_TENSOR_NEAR(norm({x, in[1].value, in[2].value})[0].data(), expected, 1e-10) << shape.to_string();
    }
}

TEST(LayerNorm, GivesTheBiasForARowOfOneChannel) {
  const Tensor y =
      layer_norm(random_tensor({3, 1}, 1), random_tensor({1}, 2), Tensor::full({1}, 0.25, DType::kFloat64), kEps, DType::kFloat64).data();
  EXPECT_EQ(y.to_vector<double>(), std::vector<double>(3, 0.25));
}

TEST(LayerNorm, KeepsTheDigitsOfSmallDeviationsFromALargeMean) {
  const Tensor around = random_tensor({4, 64}, 1, 1, DType::kFloat32), far = Tensor::full({4, 64}, 4096, DType::kFloat32);
  far.add(around);                                              // its spacing is 2^-11
  testing::expect_precision(arguments(far), norm, 1e-3, 1e-3);  // E[x^2] - mean^2 would lose all of them
}

TEST(LayerNorm, BackwardMatchesFiniteDifferences) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(shape.to_string());
    testing::expect_gradients(arguments(random_tensor(shape, 1)), norm);
    testing::expect_gradients(arguments(random_slice(shape, 1)), norm);
  }
}

TEST(LayerNorm, AddsToWhatOtherUsesGaveItsInput) {
  const auto beside = [](const Vars& in) { return Vars{norm(in)[0], in[0]}; };
  testing::expect_gradients(arguments(random_slice({4, 7}, 1)), beside);
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kBFloat16)), beside, 1e-2, 2e-2);
}

TEST(LayerNorm, AddsToTheGradientsOfItsParameters) {
  testing::expect_gradients(arguments(random_tensor({4, 6}, 1)), [](const Vars& in) { return norm({norm(in)[0], in[1], in[2]}); });
}

TEST(LayerNorm, GivesOnlyWhatIsWanted) {
  const Tensor x = random_tensor({3, 4}, 1), dy = random_tensor({3, 4}, 4);
  std::vector<Argument> in = arguments(x);
  const testing::Trace all = testing::trace(in, norm, {dy});
  for (size_t wanted = 0; wanted < 3; ++wanted) {
    std::vector<Argument> some = in;
    for (size_t i = 0; i < 3; ++i)
      if (i != wanted) some[i].kind = Argument::kConstant;
    EXPECT_EQ(testing::trace(some, norm, {dy}).gradients[0].to_vector<double>(), all.gradients[wanted].to_vector<double>());
  }
}

TEST(LayerNorm, NarrowTypesStayNearDouble) {
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kFloat32)), norm, 1e-5, 1e-5);
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kBFloat16)), norm, 1e-2, 2e-2);
}

// From some lanes of a warp to more than the registers of a GPU's block hold.
TEST(LayerNorm, TakesRowsOfAnyWidth) {
  for (const int64_t width : {8, 64, 264, 768, 2064, 8208, 16400}) {
    SCOPED_TRACE(width);
    testing::expect_narrow_precision([&](DType dtype) { return arguments(random_aligned_slice({3, width}, 1, 1, dtype)); }, norm);
  }
}

// More of them than a GPU has places for at once.
TEST(LayerNorm, SumsItsParametersGradientsOverManyRows) {
  testing::expect_narrow_precision([](DType dtype) { return arguments(random_tensor({5000, 136}, 1, 1, dtype)); }, norm);
  testing::expect_narrow_precision([](DType dtype) { return arguments(random_slice({1700, 33}, 1, 1, dtype)); }, norm);
}

TEST(LayerNorm, GivesOnlyWhatIsWantedInNarrowTypes) {
  for (size_t wanted = 0; wanted < 3; ++wanted)
    testing::expect_narrow_precision(
        [&](DType dtype) {
          std::vector<Argument> in = arguments(random_tensor({5, 72}, 1, 1, dtype));
          for (size_t i = 0; i < 3; ++i)
            if (i != wanted) in[i].kind = Argument::kConstant;
          return in;
        },
        norm);
}

// The residual stream is fp32 where the branches are bf16.
TEST(LayerNorm, ConvertsBetweenItsInputAndOutput) {
  const auto convert = [](const Vars& in) {
    return Vars{layer_norm(in[0], in[1], in[2], kEps, in[0].dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kBFloat16)};
  };
  const std::vector<Argument> in = arguments(random_tensor({65, 70}, 1, 1, DType::kFloat32));
  testing::expect_precision(in, convert, 1e-2, 2e-2);
  EXPECT_EQ(testing::trace(in, convert).outputs[0].dtype(), DType::kBFloat16);
}

TEST(LayerNorm, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments(random_tensor({3000, 65}, 1, 1, DType::kFloat32)), norm).all();
  });
}

TEST(LayerNorm, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}, Shape{2, 0, 5}})
    for (const Device device : testing::devices()) {
      const Tensor nothing = Tensor::zeros(shape, DType::kFloat32, device);
      const testing::Trace given = testing::trace(testing::on(device, arguments(nothing)), norm, {nothing});
      EXPECT_EQ(given.outputs[0].shape(), shape);
      EXPECT_EQ(given.gradients[0].shape(), shape);
      for (const Tensor& of_parameter : {given.gradients[1], given.gradients[2]})
        for (const double g : of_parameter.to_vector<double>()) EXPECT_EQ(g, 0);
    }
}

TEST(LayerNorm, NamesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros({2, 4}, DType::kBFloat16), one = Tensor::zeros({4}, DType::kFloat32);
  EXPECT_THAT([&] { layer_norm(x, one.narrow(0, 0, 3), one, kEps, DType::kFloat32); },
              ::testing::ThrowsMessage<ShapeError>("layer_norm: weight: expected fp32 [4], given fp32 [3]"));
  EXPECT_THAT([&] { layer_norm(x, one, one.to(DType::kBFloat16), kEps, DType::kFloat32); },
              ::testing::ThrowsMessage<ShapeError>("layer_norm: bias: expected fp32 [4], given bf16 [4]"));
}

}  // namespace
}  // namespace ropewalk
