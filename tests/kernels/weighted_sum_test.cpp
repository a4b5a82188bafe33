#include "kernels/weighted_sum/weighted_sum.h"

#include <gmock/gmock.h>

#include "tests/reference/weighted_sum.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::expect_gradients;
using testing::expect_same_bits_on_one_and_two_threads;
using testing::random_slice;
using testing::random_tensor;

// Against the definition on the same (rounded) inputs.
void expect_definition(const Tensors& x, const std::vector<double>& weights, double tolerance) {
  std::vector<std::vector<double>> values;
  for (const Tensor& term : x) values.push_back(term.to_vector<double>());
  const Tensor expected = Tensor::from(x[0].shape(), reference::weighted_sum(values, weights));
  const Var y = weighted_sum(Vars(x.begin(), x.end()), weights);
  EXPECT_EQ(y.dtype(), x[0].dtype());
  EXPECT_TENSOR_NEAR(y.data(), expected, tolerance);
}

TEST(WeightedSum, MatchesTheDefinition) {
  expect_definition({random_tensor({2, 3, 5}, 1)}, {-1.5}, 1e-15);
  expect_definition({random_tensor({1}, 1), random_tensor({1}, 2)}, {1, 1}, 1e-15);
  expect_definition({random_tensor({3, 2500}, 1), random_tensor({3, 2500}, 2), random_tensor({3, 2500}, 3)}, {1, -0.5, 3}, 1e-15);
  expect_definition({random_slice({3, 2500}, 1), random_tensor({3, 2500}, 2), random_slice({3, 2500}, 3)}, {1, -0.5, 3}, 1e-15);
  expect_definition({random_slice({70, 1, 3}, 1), random_slice({70, 1, 3}, 2)}, {1, 2}, 1e-15);
  expect_definition({random_tensor({4, 3, 5}, 1).narrow(1, 0, 2), random_tensor({4, 2, 6}, 2).narrow(2, 1, 5)}, {1, 2}, 1e-15);  // not rows
}

TEST(WeightedSum, TakesScalars) {
  EXPECT_EQ(add(Tensor::full({}, 2, DType::kFloat32), Tensor::full({}, 3, DType::kFloat32)).data().item(), 5);
}

TEST(WeightedSum, BackwardMatchesFiniteDifferences) {
  expect_gradients({{"a", random_slice({2, 1, 5}, 1)}, {"b", random_tensor({2, 1, 5}, 2)}}, [](const Vars& in) {
    return Vars{weighted_sum({in[0], in[1], in[0]}, {1, -0.25, 3}), add(in[0], in[1])};
  });
}

TEST(WeightedSum, KeepsTheDtypeOfTheFirstAndGivesEachItsOwn) {
  Tape tape;
  const Var residual = tape.input(random_tensor({3, 5}, 1, 1.0, DType::kFloat32)),
            branch = tape.input(random_tensor({3, 5}, 2, 1.0, DType::kBFloat16));
  const Var y = add(residual, branch);
  EXPECT_EQ(y.dtype(), DType::kFloat32);
  const Tensors grads = tape.backward({y}, {random_tensor({3, 5}, 3, 1.0, DType::kFloat32)});
  EXPECT_EQ(grads[0].dtype(), DType::kFloat32);
  EXPECT_EQ(grads[1].dtype(), DType::kBFloat16);
}

TEST(WeightedSum, Fp32AndBf16MatchFp64) {
  for (const DType first : {DType::kFloat32, DType::kBFloat16})
    for (const DType second : {DType::kFloat32, DType::kBFloat16}) {
      const Tensors x = {random_tensor({9, 130}, 1, 1.0, first), random_slice({9, 130}, 2, 1.0, second)};
      const Tensor dy = random_tensor({9, 130}, 3, 1.0, first);
      expect_definition(x, {1, -0.7}, first == DType::kFloat32 ? 1e-6 : 4e-3);

      const auto gradients = [&](bool wide) {
        Tape tape;
        Vars in;
        for (const Tensor& term : x) in.push_back(tape.input(wide ? term.to(DType::kFloat64) : term));
        return tape.backward({weighted_sum(in, {1, -0.7})}, {wide ? dy.to(DType::kFloat64) : dy});
      };
      const Tensors given = gradients(false), expected = gradients(true);
      for (size_t i = 0; i < x.size(); ++i) EXPECT_TENSOR_NEAR(given[i], expected[i], x[i].dtype() == DType::kFloat32 ? 1e-6 : 4e-3);
    }
}

// By ones and by packs, all of one dtype and mixed, and more terms than a kernel takes.
TEST(WeightedSum, OfManyTermsStaysNearDouble) {
  for (const DType first : {DType::kFloat32, DType::kBFloat16})
    for (const DType second : {DType::kFloat32, DType::kBFloat16})
      for (const size_t count : {2, 4, 6}) {
        const double tolerance = first == DType::kFloat32 && second == DType::kFloat32 ? 1e-6 : 1e-2;
        std::vector<testing::Argument> dense, slices, whole;
        for (size_t k = 0; k < count; ++k) {
          const DType dtype = k % 2 ? second : first;
          dense.push_back({"x", random_tensor({5, 72}, k, 1, dtype)});
          slices.push_back({"x", random_slice({2, 3, 7}, k, 1, dtype)});
          whole.push_back({"x", k == 1 ? random_tensor({4, 3, 16}, k, 1, dtype).narrow(1, 0, 2) : random_tensor({4, 2, 16}, k, 1, dtype)});
        }
        const auto sum = [&](const Vars& in) {
          std::vector<double> weights;
          for (size_t k = 0; k < count; ++k) weights.push_back(0.5 * static_cast<double>(k) - 0.7);
          return Vars{weighted_sum(in, weights)};
        };
        for (const auto& arguments : {dense, slices, whole}) testing::expect_precision(arguments, sum, tolerance, 2 * tolerance);
      }
}

TEST(WeightedSum, GivesTheSameBitsOnOneAndTwoThreads) {
  const Tensor a = random_slice({300, 700}, 1, 1.0, DType::kFloat32), b = random_slice({300, 700}, 2, 1.0, DType::kBFloat16);
  expect_same_bits_on_one_and_two_threads([&] { return Tensors{weighted_sum({a, b}, {0.3, 0.7}).data()}; });
}

TEST(WeightedSum, TakesEmptyTensors) {
  Tape tape;
  const Var x = tape.input(Tensor::zeros({3, 0}, DType::kFloat32));
  const Var y = weighted_sum({x, x}, {2, 3});
  EXPECT_EQ(tape.backward({y}, {zeros_like(y.data())}).front().shape(), (Shape{3, 0}));
}

TEST(WeightedSum, NamesShapesThatDoNotFit) {
  EXPECT_THAT(
      [] {
        add(random_tensor({2, 3}, 1), random_tensor({3, 2}, 2));
      },
      ::testing::ThrowsMessage<ShapeError>("weighted_sum: x: expected [2, 3] (the first), given [3, 2]"));
}

}  // namespace
}  // namespace ropewalk
