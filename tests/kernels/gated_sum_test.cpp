#include "kernels/gated_sum/gated_sum.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_slice;
using testing::random_tensor;

// The logits, then the branches.
Vars mixed(const Vars& in) { return {gated_sum(in[0], {in.begin() + 1, in.end()})}; }

std::vector<Argument> dense(std::vector<Argument> arguments) {
  for (Argument& argument : arguments) argument.value = argument.value.contiguous_copy();
  return arguments;
}

std::vector<Argument> arguments(const Shape& shape, int64_t branches, double scale = 1, DType dtype = DType::kFloat64) {
  std::vector<Argument> in = {{"logits", random_slice(shape.with(-1, (branches - 1) * shape[-1]), 1, scale, dtype)}};
  for (int64_t k = 0; k < branches; ++k) in.push_back({"x", random_slice(shape, static_cast<uint64_t>(2 + k), 1, dtype)});
  return in;
}

TEST(GatedSum, OfTwoBranchesIsASigmoidGate) {
  const std::vector<Argument> in = arguments({2, 3, 300}, 2, 4);
  const auto logits = in[0].value.to_vector<double>(), a = in[1].value.to_vector<double>(), b = in[2].value.to_vector<double>();
  std::vector<double> expected;
  for (size_t i = 0; i < a.size(); ++i) {
    const double g = 1 / (1 + std::exp(-logits[i]));
    expected.push_back(g * a[i] + (1 - g) * b[i]);
  }
  EXPECT_TENSOR_NEAR(mixed({in[0].value, in[1].value, in[2].value})[0].data(), Tensor::from({2, 3, 300}, expected), 1e-14);
}

TEST(GatedSum, OfMoreBranchesIsASoftmaxWhoseLastLogitIsZero) {
  const std::vector<Argument> in = arguments({2, 5}, 3, 2);
  const auto logits = in[0].value.to_vector<double>(), a = in[1].value.to_vector<double>(), b = in[2].value.to_vector<double>(),
             c = in[3].value.to_vector<double>();
  std::vector<double> expected;
  for (size_t i = 0; i < a.size(); ++i) {
    const size_t row = i / 5, channel = i % 5;
    const double u = std::exp(logits[row * 10 + channel]), v = std::exp(logits[row * 10 + 5 + channel]);
    expected.push_back((u * a[i] + v * b[i] + c[i]) / (u + v + 1));
  }
  EXPECT_TENSOR_NEAR(mixed({in[0].value, in[1].value, in[2].value, in[3].value})[0].data(), Tensor::from({2, 5}, expected), 1e-14);
}

TEST(GatedSum, BackwardMatchesFiniteDifferences) {
  for (const int64_t branches : {2, 3})
    for (const Shape& shape : {Shape{1, 1}, Shape{2, 2, 7}, Shape{1, 260}}) testing::expect_gradients(arguments(shape, branches), mixed);
}

TEST(GatedSum, NarrowTypesStayNearDouble) {
  for (const int64_t branches : {2, 3, 8}) {
    testing::expect_precision(arguments({20, 70}, branches, 3, DType::kFloat32), mixed, 1e-5, 1e-5);
    testing::expect_precision(arguments({20, 70}, branches, 3, DType::kBFloat16), mixed, 1e-2, 2e-2);
    testing::expect_precision(dense(arguments({5, 72}, branches, 3, DType::kFloat32)), mixed, 1e-5, 1e-5);
    testing::expect_precision(dense(arguments({5, 72}, branches, 3, DType::kBFloat16)), mixed, 1e-2, 2e-2);
  }
}

TEST(GatedSum, SaturatesWithoutNan) {
  const Tensor logits = Tensor::from<float>({4}, {-1e30f, -200, 200, 1e30f}), a = Tensor::full({4}, 2, DType::kFloat32),
               b = Tensor::full({4}, 3, DType::kFloat32);
  for (const Device device : testing::devices())
    EXPECT_EQ(gated_sum(logits.to(device), {a.to(device), b.to(device)}).data().to_vector<float>(), (std::vector<float>{3, 3, 2, 2}));
}

TEST(GatedSum, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments({300, 300}, 3, 1, DType::kFloat32), mixed).all();
  });
}

TEST(GatedSum, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}}) {
    const Tensor none = Tensor::zeros(shape, DType::kFloat32);
    EXPECT_EQ(testing::trace({{"logits", none}, {"a", none}, {"b", none}}, mixed).gradients[0].shape(), shape);
  }
}

TEST(GatedSum, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        mixed({random_tensor({2, 4}, 1), random_tensor({2, 4}, 2), random_tensor({2, 4}, 3), random_tensor({2, 4}, 3)});
      },
      ::testing::ThrowsMessage<ShapeError>("gated_sum: logits: expected fp64 [2, 8], given fp64 [2, 4]"));
}

}  // namespace
}  // namespace ropewalk
