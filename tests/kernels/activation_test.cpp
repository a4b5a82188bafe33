#include "kernels/activation/activation.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/reference/activation.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_slice;
using testing::random_tensor;
using Function = std::function<Vars(const Vars&)>;

constexpr Activation kAll[] = {Activation::kSigmoid, Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu2};
constexpr double kScale = 0.7;

Function plain(Activation f) {
  return [f](const Vars& in) { return Vars{activation(in[0], f)}; };
}
Function gated(Activation f, double scale = kScale) {
  return [f, scale](const Vars& in) { return Vars{gated_activation(in[0], in[1], f, scale)}; };
}

std::vector<Argument> one(const Shape& shape, double scale, DType dtype = DType::kFloat64) {
  return {{"x", random_slice(shape, 1, scale, dtype)}};
}
std::vector<Argument> two(const Shape& shape, double scale, DType dtype = DType::kFloat64) {
  return {{"gate", random_slice(shape, 1, scale, dtype)}, {"up", random_slice(shape, 2, 1.0, dtype)}};
}

TEST(Activation, EqualsItsDefinition) {
  for (const Activation f : kAll)
    for (const int64_t width : {1, 7, 130}) {
      const Tensor x = random_slice({2, 3, width}, 1, 8.0), up = random_slice({2, 3, width}, 2);
      const auto xs = x.to_vector<double>(), ups = up.to_vector<double>();
      std::vector<double> y, gated_y;
      for (size_t i = 0; i < xs.size(); ++i) {
        y.push_back(reference::activation(xs[i], f));
        gated_y.push_back(reference::activation(kScale * xs[i], f) * ups[i]);
      }
      const Tensor given = activation(x, f).data(), given_gated = gated_activation(x, up, f, kScale).data();
      EXPECT_TRUE(given.contiguous() && given_gated.contiguous());
      EXPECT_TENSOR_NEAR(given, Tensor::from(x.shape(), y), 1e-13);
      EXPECT_TENSOR_NEAR(given_gated, Tensor::from(x.shape(), gated_y), 1e-13);
    }
}

TEST(Activation, BackwardMatchesFiniteDifferences) {
  for (const Activation f : kAll)
    for (const int64_t width : {1, 7, 33}) {
      SCOPED_TRACE(static_cast<int>(f));
      testing::expect_gradients(one({2, 2, width}, 3.0), plain(f));
      testing::expect_gradients(two({2, 2, width}, 3.0), gated(f));
    }
}

TEST(Activation, NarrowTypesStayNearDouble) {
  for (const Activation f : kAll) {
    SCOPED_TRACE(static_cast<int>(f));
    testing::expect_precision(one({9, 130}, 8.0, DType::kFloat32), plain(f), 1e-6, 1e-6);
    testing::expect_precision(two({9, 130}, 8.0, DType::kFloat32), gated(f), 1e-6, 1e-6);
    testing::expect_precision(one({9, 130}, 8.0, DType::kBFloat16), plain(f), 4e-3, 4e-3);
    testing::expect_precision(two({9, 130}, 8.0, DType::kBFloat16), gated(f), 4e-3, 4e-3);
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {  // dense, read in packs
      const double tolerance = dtype == DType::kFloat32 ? 1e-6 : 4e-3;
      const Tensor x = random_tensor({9, 136}, 1, 8.0, dtype), up = random_tensor({9, 136}, 2, 1.0, dtype);
      testing::expect_precision({{"x", x}}, plain(f), tolerance, tolerance);
      testing::expect_precision({{"gate", x}, {"up", up}}, gated(f), tolerance, tolerance);
    }
  }
}

// Element by element, where the polynomial for Phi could be weak; as float gives away what is lost between 1 and 0.
TEST(Activation, GeluIsExactToFloatEverywhere) {
  for (double x = -12; x < 12; x += 0.013) {
    const Tensor given = activation(Tensor::from<float>({1}, {static_cast<float>(x)}), Activation::kGelu).data();
    const double expected = reference::activation(static_cast<double>(static_cast<float>(x)), Activation::kGelu);
    EXPECT_NEAR(given.item(), expected, 3e-7 * std::max(1.0, std::abs(x))) << x;
  }
}

TEST(Activation, SaturatesWithoutNan) {
  const Tensor x = Tensor::from<float>({6}, {-1000, -100, -88, 88, 100, 1000}), ones = Tensor::full({6}, 1, DType::kFloat32);
  for (const Activation f : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
    for (const Device device : testing::devices()) {
      const testing::Trace given = testing::trace({{"x", x.to(device)}}, plain(f), {ones.to(device)});
      EXPECT_THAT(given.outputs[0].to_vector<float>(), ::testing::Pointwise(::testing::FloatNear(1e-30f), {0, 0, 0, 88, 100, 1000}));
      EXPECT_THAT(given.gradients[0].to_vector<float>(), ::testing::Pointwise(::testing::FloatNear(1e-30f), {0, 0, 0, 1, 1, 1}));
    }
  }
}

TEST(Activation, TakesAGradientThatIsNotRows) {
  const Tensor x = random_tensor({2, 3, 5}, 1), up = random_tensor({2, 3, 5}, 2), dy = random_tensor({2, 6, 5}, 3).narrow(1, 1, 3);
  ASSERT_FALSE(is_rows(dy));
  const std::vector<Argument> in = {{"gate", x}, {"up", up}};
  for (const auto& function : {plain(Activation::kGelu), gated(Activation::kGelu)}) {
    const auto given = testing::trace(in, function, {dy}), same = testing::trace(in, function, {dy.contiguous_copy()});
    EXPECT_EQ(given.gradients[0].to_vector<double>(), same.gradients[0].to_vector<double>());
  }
}

TEST(Activation, GivesTheSameBitsOnOneAndTwoThreads) {
  const std::vector<Argument> in = two({300, 700}, 3.0, DType::kFloat32);
  for (const auto& function : {plain(Activation::kGelu), gated(Activation::kSilu)})
    testing::expect_same_bits_on_one_and_two_threads([&] {
      Tensors all = testing::trace(in, function).all();
      std::erase_if(all, [](const Tensor& tensor) { return !tensor; });  // the plain function leaves up without a gradient
      return all;
    });
}

TEST(Activation, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}}) {
    const Tensor none = Tensor::zeros(shape, DType::kFloat32);
    for (const auto& function : {plain(Activation::kSilu), gated(Activation::kSilu)}) {
      const testing::Trace given = testing::trace({{"gate", none}, {"up", none}}, function, {none});
      EXPECT_EQ(given.outputs[0].shape(), shape);
      EXPECT_EQ(given.gradients[0].shape(), shape);
    }
  }
}

TEST(Activation, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        gated_activation(random_tensor({2, 4}, 1), random_tensor({2, 5}, 2), Activation::kSilu);
      },
      ::testing::ThrowsMessage<ShapeError>("gated_activation: up: expected fp64 [2, 4] (gate's), given fp64 [2, 5]"));
  const Tensor columns = random_tensor({2, 3, 4}, 1).narrow(1, 0, 2);
  EXPECT_THAT([&] { activation(columns, Activation::kSilu); },
              ::testing::ThrowsMessage<ShapeError>("activation: x: expected rows of one stride, given a view [2, 2, 4] that is not"));
}

}  // namespace
}  // namespace ropewalk
