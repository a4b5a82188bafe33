#include "kernels/linear/linear.h"

#include <gmock/gmock.h>

#include "tests/reference/matmul.h"
#include "tests/support/devices.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::expect_gradients;
using testing::parameter;
using testing::random_slice;
using testing::random_tensor;

// y, dx and dweight, for dy given.
Tensors run(const Tensor& x, const Tensor& weight, const Tensor& dy) {
  Tape tape;
  const Var w = parameter("weight", weight);
  const Var y = linear(tape.input(x), w);
  const Tensor dx = tape.backward({y}, {dy}).front();
  return {y.data(), dx, w.leaf()->grad};
}

TEST(Linear, MatchesTheDefinition) {
  for (const auto& [rows, in, out] : {std::array{1, 1, 1}, {6, 5, 7}, {6, 130, 67}}) {
    const Tensor x = random_slice({rows / 2 + rows % 2, rows > 1 ? 2 : 1, in}, 1), weight = random_tensor({out, in}, 2);
    std::vector<double> expected(rows * out);
    reference::add_product(x.to_vector<double>(), reference::transposed(weight.to_vector<double>(), out, in), expected, rows, out, in);
    const Tensor y = linear(x, weight).data();
    EXPECT_TRUE(y.contiguous());
    EXPECT_TENSOR_NEAR(y, Tensor::from(x.shape().with(-1, out), expected), 1e-14);
  }
}

TEST(Linear, BackwardMatchesFiniteDifferences) {
  for (const auto& [in, out] : {std::pair{1, 1}, {5, 3}, {3, 70}})
    expect_gradients({{"x", random_slice({2, 3, in}, 1)}, {"weight", random_tensor({out, in}, 2), Argument::kParameter}},
                     [](const Vars& v) { return Vars{linear(v[0], v[1])}; });
}

TEST(Linear, AddsUpTheGradientOfAWeightUsedTwice) {
  expect_gradients({{"x", random_tensor({4, 3}, 1)}, {"weight", random_tensor({3, 3}, 2), Argument::kParameter}},
                   [](const Vars& v) { return Vars{linear(linear(v[0], v[1]), v[1])}; });
}

TEST(Linear, TakesAGradientThatIsNotRows) {
  const Tensor x = random_tensor({2, 3, 5}, 1), weight = random_tensor({4, 5}, 2), dy = random_tensor({2, 6, 4}, 3).narrow(1, 2, 3);
  const Tensors given = run(x, weight, dy), expected = run(x, weight, dy.contiguous_copy());
  for (size_t i = 0; i < given.size(); ++i) EXPECT_EQ(given[i].to_vector<double>(), expected[i].to_vector<double>());
}

TEST(Linear, Fp32AndBf16MatchFp64) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat32, 1e-6}, {DType::kBFloat16, 4e-3}})
    for (const auto& [rows, in, out] : {std::array{50, 129, 67}, {1, 8, 1}, {33, 64, 136}})
      testing::expect_precision(
          {{"x", random_slice({3, rows, in}, 1, 1.0, dtype)}, {"weight", random_tensor({out, in}, 2, 0.1, dtype), Argument::kParameter}},
          [](const Vars& v) { return Vars{linear(v[0], v[1])}; }, tolerance, tolerance);
}

// The gradient of a weight is a sum in fp32, whatever is multiplied.
TEST(Linear, SumsTheGradientOfANarrowWeightInFp32) {
  for (const Device device : testing::devices()) {
    const DType dtype = DType::kBFloat16;
    const Tensor x = random_slice({3, 50, 129}, 1, 1.0, dtype), weight = random_tensor({67, 129}, 2, 0.1, dtype);
    const Tensor dy = random_slice({3, 50, 67}, 3, 1.0, dtype);
    const Tensors given = run(testing::on(device, x), weight.to(device), testing::on(device, dy)),
                  expected = run(x.to(DType::kFloat64), weight.to(DType::kFloat64), dy.to(DType::kFloat64));
    EXPECT_EQ(given[2].dtype(), DType::kFloat32);
    EXPECT_TENSOR_NEAR(given[2], expected[2], 1e-6);
  }
}

TEST(Linear, DefersTheWeightPart) {
  Tape tape;
  tape.defer_weight_parts(true);
  const Var weight = parameter("weight", random_tensor({3, 4}, 2));
  const Var y = linear(tape.input(random_tensor({2, 4}, 1)), weight);
  tape.backward({y}, {random_tensor({2, 3}, 3)});
  EXPECT_THAT(weight.leaf()->grad.to_vector<double>(), ::testing::Each(0));
  tape.run_deferred();
  EXPECT_THAT(weight.leaf()->grad.to_vector<double>(), ::testing::Each(::testing::Ne(0)));
}

TEST(Linear, GivesTheSameBitsOnOneAndTwoThreads) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Tensor x = random_tensor({2100, 600}, 1, 1.0, dtype), weight = random_tensor({200, 600}, 2, 0.1, dtype);
    const Tensor dy = random_tensor({2100, 200}, 3, 1.0, dtype);
    testing::expect_same_bits_on_one_and_two_threads([&] { return run(x, weight, dy); });
  }
}

TEST(Linear, TakesEmptyTensors) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const Device device : testing::devices(dtype)) {
      const Tensor weight = random_tensor({3, 4}, 1, 1.0, dtype).to(device);
      const Tensors none = run(Tensor::zeros({0, 4}, dtype, device), weight, Tensor::zeros({0, 3}, dtype, device));
      EXPECT_EQ(none[0].shape(), (Shape{0, 3}));
      EXPECT_THAT(none[2].to_vector<double>(), ::testing::Each(0));
      const Tensor no_tokens = random_tensor({2, 5, 4}, 1, 1.0, dtype).to(device).narrow(1, 3, 0);
      EXPECT_EQ(linear(no_tokens, weight).shape(), (Shape{2, 0, 3}));
      const Tensor no_channels = Tensor::zeros({2, 0}, dtype, device), no_weights = Tensor::zeros({3, 0}, dtype, device);
      EXPECT_THAT(linear(no_channels, no_weights).data().to_vector<double>(), ::testing::Each(0));
    }
}

TEST(Linear, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        linear(random_tensor({4, 512, 8}, 1), random_tensor({6, 9}, 2));
      },
      ::testing::ThrowsMessage<ShapeError>("linear: weight: expected [*, 8] (last dim of x [4, 512, 8]), given [6, 9]"));
  EXPECT_THAT(
      [] {
        linear(random_tensor({4, 8}, 1), random_tensor({6, 8}, 2, 1.0, DType::kBFloat16));
      },
      ::testing::ThrowsMessage<ShapeError>("linear: weight: expected fp64 (x's), given bf16"));
}

}  // namespace
}  // namespace ropewalk
