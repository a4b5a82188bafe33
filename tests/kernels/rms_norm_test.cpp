#include "kernels/rms_norm/rms_norm.h"

#include <gmock/gmock.h>

#include "tests/reference/rms_norm.h"
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
Vars norm(const Vars& in) { return {rms_norm(in[0], in[1], kEps, in[0].dtype())}; }

std::vector<Argument> arguments(const Tensor& x) {
  return {{"x", x}, {"weight", random_tensor({x.dim(-1)}, 2, 1, wide(x.dtype())), Argument::kParameter}};
}

const std::vector<Shape> kShapes = {{1, 1}, {5}, {2, 3, 7}, {3, 64}, {70, 33}};

TEST(RmsNorm, EqualsItsDefinition) {
  for (const Shape& shape : kShapes)
    for (const Tensor& x : {random_tensor(shape, 1), random_slice(shape, 1)}) {
      const Tensor weight = random_tensor({x.dim(-1)}, 2);
      const Tensor expected = Tensor::from(shape, reference::rms_norm(x.to_vector<double>(), weight.to_vector<double>(), kEps));
      EXPECT_TENSOR_NEAR(rms_norm(x, weight, kEps, DType::kFloat64).data(), expected, 1e-10) << shape.to_string();
    }
}

TEST(RmsNorm, BackwardMatchesFiniteDifferences) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(shape.to_string());
    testing::expect_gradients(arguments(random_tensor(shape, 1)), norm);
    testing::expect_gradients(arguments(random_slice(shape, 1)), norm);
  }
}

// In the dtype of x, around a gain of 1.
Vars zero_centered(const Vars& in) { return {rms_norm(in[0], in[1], kEps, in[0].dtype(), true)}; }

TEST(RmsNorm, ZeroCenteredAddsOneToTheWeight) {
  const Tensor x = random_slice({2, 3, 7}, 1), weight = random_tensor({7}, 2), gain = Tensor::full({7}, 1, DType::kFloat64);
  gain.add(weight);
  EXPECT_TENSOR_NEAR(zero_centered({x, weight})[0].data(), norm({x, gain})[0].data(), 1e-15);
  testing::expect_gradients(arguments(x), zero_centered);
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kBFloat16)), zero_centered, 1e-2, 2e-2);
}

// Heads side by side share a weight.
TEST(RmsNorm, WithAShorterWeightNormalisesEachHeadAlone) {
  const int64_t heads = 3, width = 5;
  for (const Tensor& x : {random_tensor({2, 40, heads * width}, 1), random_slice({2, 40, heads * width}, 1)}) {
    const Tensor weight = random_tensor({width}, 2), y = norm({x, weight})[0].data();
    for (int64_t h = 0; h < heads; ++h)
      EXPECT_TENSOR_NEAR(y.narrow(-1, h * width, width), norm({x.narrow(-1, h * width, width).contiguous_copy(), weight})[0].data(), 1e-14);
    std::vector<Argument> in = arguments(x.select(0, 0).narrow(0, 0, 4));
    in[1].value = weight;
    testing::expect_gradients(in, norm);
    testing::expect_gradients(in, zero_centered);
  }
}

TEST(RmsNorm, AddsToWhatOtherUsesGaveItsInput) {
  const auto beside = [](const Vars& in) { return Vars{norm(in)[0], in[0]}; };
  testing::expect_gradients(arguments(random_slice({4, 7}, 1)), beside);
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kBFloat16)), beside, 1e-2, 2e-2);
}

TEST(RmsNorm, AddsToTheGradientOfItsWeight) {
  testing::expect_gradients(arguments(random_tensor({4, 6}, 1)), [](const Vars& in) {
    const Var once = rms_norm(in[0], in[1], kEps, DType::kFloat64);
    return Vars{rms_norm(once, in[1], kEps, DType::kFloat64)};
  });
}

TEST(RmsNorm, TakesAGradientThatIsNotRows) {
  Tape tape;
  const Var y = rms_norm(tape.input(random_tensor({2, 3, 4}, 1)), random_tensor({4}, 2), kEps, DType::kFloat64);
  const Tensor dy = random_tensor({2, 5, 4}, 3).narrow(1, 1, 3);
  ASSERT_FALSE(is_rows(dy));
  const Tensor dx = tape.backward({y}, {dy}).front();

  Tape same;
  const Var z = rms_norm(same.input(random_tensor({2, 3, 4}, 1)), random_tensor({4}, 2), kEps, DType::kFloat64);
  EXPECT_TENSOR_NEAR(dx, same.backward({z}, {dy.contiguous_copy()}).front(), 1e-15);
}

TEST(RmsNorm, GivesOnlyWhatIsWanted) {
  const Tensor x = random_tensor({3, 4}, 1), weight = random_tensor({4}, 2), dy = random_tensor({3, 4}, 3);
  const auto run = [&](bool frozen_x, bool frozen_weight) {
    Tape tape;
    const Var w = frozen_weight ? Var(weight) : testing::parameter("weight", weight);
    const Var y = rms_norm(frozen_x ? tape.constant(x) : tape.input(x), w, kEps, DType::kFloat64);
    const Tensors dx = tape.backward({y}, {dy});
    return frozen_x ? w.leaf()->grad : dx.front();
  };
  const testing::Trace both = testing::trace(arguments(x), norm, {dy});
  EXPECT_EQ(run(false, true).to_vector<double>(), both.gradients[0].to_vector<double>());
  EXPECT_EQ(run(true, false).to_vector<double>(), both.gradients[1].to_vector<double>());
}

TEST(RmsNorm, NarrowTypesStayNearDouble) {
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kFloat32)), norm, 1e-5, 1e-5);
  testing::expect_precision(arguments(random_slice({130, 70}, 1, 1, DType::kBFloat16)), norm, 1e-2, 2e-2);
}

// From some lanes of a warp to more than the registers of a GPU's block hold.
TEST(RmsNorm, TakesRowsOfAnyWidth) {
  for (const int64_t width : {8, 64, 264, 768, 2064, 8208, 16400}) {
    SCOPED_TRACE(width);
    testing::expect_narrow_precision([&](DType dtype) { return arguments(random_aligned_slice({3, width}, 1, 1, dtype)); }, norm);
  }
  testing::expect_narrow_precision([&](DType dtype) { return arguments(random_slice({2, 1100}, 1, 1, dtype)); }, norm);
}

// More of them than a GPU has places for at once.
TEST(RmsNorm, SumsItsWeightGradientOverManyRows) {
  testing::expect_narrow_precision([](DType dtype) { return arguments(random_tensor({5000, 136}, 1, 1, dtype)); }, norm);
  testing::expect_narrow_precision([](DType dtype) { return arguments(random_slice({1700, 33}, 1, 1, dtype)); }, norm);
}

TEST(RmsNorm, NormalisesHeadsInNarrowTypes) {
  for (const auto& [heads, width] : {std::pair{3, 5}, {7, 16}, {3, 128}})
    for (const auto& norm_of : {norm, zero_centered})
      testing::expect_narrow_precision(
          [&, heads = heads, width = width](DType dtype) {
            std::vector<Argument> in = arguments(random_aligned_slice({2, 65, heads * width}, 1, 1, dtype));
            in[1].value = random_tensor({width}, 2, 1, wide(dtype));
            return in;
          },
          norm_of);
}

// The residual stream is fp32 where the branches are bf16.
TEST(RmsNorm, ConvertsBetweenItsInputAndOutput) {
  for (const auto& [from, to] : {std::pair{DType::kFloat32, DType::kBFloat16}, {DType::kBFloat16, DType::kFloat32}}) {
    const auto convert = [to = to](const Vars& in) {
      const bool exact = in[0].dtype() == DType::kFloat64;
      return Vars{rms_norm(in[0], in[1], kEps, exact ? DType::kFloat64 : to)};
    };
    const std::vector<Argument> in = arguments(random_tensor({65, 70}, 1, 1, from));
    testing::expect_precision(in, convert, 1e-2, 2e-2);
    const testing::Trace given = testing::trace(in, convert);
    EXPECT_EQ(given.outputs[0].dtype(), to);
    EXPECT_EQ(given.gradients[0].dtype(), from);
    EXPECT_EQ(given.gradients[1].dtype(), DType::kFloat32);
  }
}

TEST(RmsNorm, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments(random_tensor({30000, 65}, 1, 1, DType::kFloat32)), norm).all();
  });
}

TEST(RmsNorm, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}, Shape{2, 0, 5}})
    for (const Device device : testing::devices()) {
      const Tensor nothing = Tensor::zeros(shape, DType::kFloat32, device);
      const testing::Trace given = testing::trace(testing::on(device, arguments(nothing)), norm, {nothing});
      EXPECT_EQ(given.outputs[0].shape(), shape);
      EXPECT_EQ(given.gradients[0].shape(), shape);
      for (const double g : given.gradients[1].to_vector<double>()) EXPECT_EQ(g, 0);
    }
}

TEST(RmsNorm, NamesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros({2, 4}, DType::kBFloat16), weight = Tensor::zeros({4}, DType::kFloat32);
  EXPECT_THAT([&] { rms_norm(x, weight.narrow(0, 0, 3), kEps, DType::kFloat32); },
              ::testing::ThrowsMessage<ShapeError>("rms_norm: weight: expected fp32 [4], given fp32 [3]"));
  EXPECT_THAT([&] { rms_norm(x, Tensor::zeros({8}, DType::kFloat32), kEps, DType::kFloat32); },
              ::testing::ThrowsMessage<ShapeError>("rms_norm: weight: expected fp32 [4], given fp32 [8]"));
  EXPECT_THAT([&] { rms_norm(x, weight.to(DType::kBFloat16), kEps, DType::kFloat32); },
              ::testing::ThrowsMessage<ShapeError>("rms_norm: weight: expected fp32 [4], given bf16 [4]"));
  EXPECT_THAT([&] { rms_norm(x, weight, kEps, DType::kFloat64); },
              ::testing::ThrowsMessage<ShapeError>("rms_norm: out: expected a dtype as wide as that of x (bf16), given fp64"));
}

}  // namespace
}  // namespace ropewalk
