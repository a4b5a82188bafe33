#include "kernels/experts/experts.h"

#include <gmock/gmock.h>

#include "tests/reference/experts.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_slice;
using testing::random_tensor;

// Distinct experts a token, of which the last two get nothing.
Tensor some_experts(const Shape& tokens, int64_t k, int64_t experts) {
  const Tensor expert = Tensor::empty(tokens.then({k}), DType::kInt64);
  const auto draw = random_tensor({tokens.numel()}, 7).to_vector<double>();
  for (int64_t t = 0; t < tokens.numel(); ++t)
    for (int64_t j = 0; j < k; ++j)
      expert.data<int64_t>()[t * k + j] = (static_cast<int64_t>((draw[t] + 1) * 1000) + j) % std::max<int64_t>(1, experts - 2);
  return expert;
}

using Plan = std::shared_ptr<const ExpertPlan>;

Var mixture(const Var& x, const Var& matrix, const Var& weight, const Plan& plan) {
  return combine_tokens(expert_linear(dispatch_tokens(x, plan), matrix, plan), weight, plan);
}

std::vector<Argument> arguments(const Shape& tokens, int64_t k, int64_t experts, int64_t in, int64_t out, DType dtype = DType::kFloat64) {
  return {{"x", random_slice(tokens.then({in}), 1, 1.0, dtype)},
          {"matrix", random_tensor({experts, out, in}, 2, 0.3, dtype), Argument::kParameter},
          {"weight", random_tensor(tokens.then({k}), 3, 1.0, wide(dtype))}};
}

TEST(Experts, MatchTheDefinition) {
  for (const auto& [length, k, experts] : {std::array{1, 1, 1}, {5, 1, 3}, {19, 3, 5}, {64, 2, 40}}) {
    const Shape tokens = {2, length};
    const auto args = arguments(tokens, k, experts, 7, 70);
    const Tensor expert = some_experts(tokens, k, experts);
    const std::vector<double> expected =
        reference::mixture(args[0].value.to_vector<double>(), args[1].value.to_vector<double>(), expert.to_vector<int64_t>(),
                           args[2].value.to_vector<double>(), 2 * length, k, 70, 7);
    const Var y = mixture(args[0].value, args[1].value, args[2].value, plan_experts(expert, experts));
    EXPECT_TENSOR_NEAR(y.data(), Tensor::from({2, length, 70}, expected), 1e-14);
  }
}

TEST(Experts, BackwardMatchesFiniteDifferences) {
  for (const auto& [length, k, experts] : {std::array{1, 1, 1}, {3, 2, 5}, {5, 3, 6}}) {
    const Shape tokens = {2, length};
    const Plan plan = plan_experts(some_experts(tokens, k, experts), experts);
    testing::expect_gradients(arguments(tokens, k, experts, 3, 4),
                              [&](const Vars& in) { return Vars{mixture(in[0], in[1], in[2], plan)}; });
  }
}

TEST(Experts, TakeAMatrixInSeveralParts) {
  const Shape tokens = {1, 4};
  const Plan plan = plan_experts(some_experts(tokens, 1, 3), 3);
  const Tensor rows = dispatch_tokens(random_tensor({1, 4, 5}, 1), plan).data(), matrix = random_tensor({3, 2, 6, 5}, 2);
  EXPECT_EQ(expert_linear(rows, matrix, plan).data().to_vector<double>(),
            expert_linear(rows, matrix.reshape({3, 12, 5}), plan).data().to_vector<double>());
}

TEST(Experts, SortByExpertThenTokenThenSlot) {
  const Plan plan = plan_experts(Tensor::from<int64_t>({1, 3, 2}, {2, 0, 0, 2, 3, 0}), 5);
  EXPECT_EQ(plan->begin, (std::vector<int64_t>{0, 3, 3, 5, 6, 6}));
  EXPECT_EQ(plan->token.to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(plan->row.to_vector<int64_t>(), (std::vector<int64_t>{3, 0, 1, 4, 5, 2}));
}

TEST(Experts, SortAlikeOnAllDevices) {
  for (const auto& [tokens, k, experts] : {std::array{1, 1, 1}, {1500, 2, 5}, {700, 3, 300}, {0, 2, 4}}) {
    const Tensor expert = some_experts({tokens}, k, experts);
    const Plan expected = plan_experts(expert, experts);
    for (const Device device : testing::devices()) {
      const Plan plan = plan_experts(expert.to(device), experts);
      EXPECT_EQ(plan->begin, expected->begin);
      EXPECT_EQ(plan->token.to_vector<int64_t>(), expected->token.to_vector<int64_t>());
      EXPECT_EQ(plan->row.to_vector<int64_t>(), expected->row.to_vector<int64_t>());
    }
  }
}

TEST(Experts, CarryTokensThereAndBackInNarrowTypes) {
  for (const auto& [width, k] : {std::array{1, 1}, {65, 3}, {64, 2}, {1100, 2}}) {
    const Shape tokens = {2, 17};
    const Tensor expert = some_experts(tokens, k, 7);
    const auto run = [&](const Vars& in) {
      const Plan plan = plan_experts(expert.to(in[0].data().device()), 7);
      return Vars{combine_tokens(dispatch_tokens(in[0], plan), in[1], plan)};
    };
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const double tolerance = dtype == DType::kFloat32 ? 1e-5 : 1e-2;
      const Tensor weight = random_tensor(tokens.then({k}), 3, 1.0, DType::kFloat32);
      testing::expect_precision({{"x", random_slice(tokens.then({width}), 1, 1.0, dtype)}, {"weight", weight}}, run, tolerance,
                                2 * tolerance);
      testing::expect_precision({{"x", random_tensor(tokens.then({width}), 1, 1.0, dtype)}, {"weight", weight}}, run, tolerance,
                                2 * tolerance);
    }
  }
}

TEST(Experts, DeferTheGradientsOfTheirMatrices) {
  const Shape tokens = {1, 6};
  const Plan plan = plan_experts(some_experts(tokens, 2, 5), 5);
  const auto args = arguments(tokens, 2, 5, 3, 4);
  Tape tape;
  const Var matrix = testing::parameter("matrix", args[1].value);
  tape.defer_weight_parts(true);
  const Var y = mixture(tape.input(args[0].value), matrix, args[2].value, plan);
  tape.backward({y}, {random_tensor(y.shape(), 5)});
  EXPECT_EQ(testing::relative_error(matrix.leaf()->grad, zeros_like(matrix.leaf()->grad), 1), 0);
  tape.run_deferred();
  EXPECT_GT(testing::relative_error(matrix.leaf()->grad, zeros_like(matrix.leaf()->grad), 1), 0);
}

TEST(Experts, Fp32AndBf16MatchFp64) {
  const Shape tokens = {2, 150};
  const Tensor expert = some_experts(tokens, 2, 6);
  const auto run = [&](const Vars& in) { return Vars{mixture(in[0], in[1], in[2], plan_experts(expert.to(in[0].data().device()), 6))}; };
  testing::expect_precision(arguments(tokens, 2, 6, 65, 130, DType::kFloat32), run, 1e-5, 1e-5);
  testing::expect_precision(arguments(tokens, 2, 6, 65, 130, DType::kBFloat16), run, 1e-2, 2e-2);
}

TEST(Experts, GiveTheSameBitsOnOneAndTwoThreads) {
  const Shape tokens = {2, 600};
  const Plan plan = plan_experts(some_experts(tokens, 3, 6), 6);
  const auto args = arguments(tokens, 3, 6, 130, 140, DType::kBFloat16);
  testing::expect_same_bits_on_one_and_two_threads(
      [&] { return testing::trace(args, [&](const Vars& in) { return Vars{mixture(in[0], in[1], in[2], plan)}; }).all(); });
}

TEST(Experts, TakeNoTokens) {
  for (const Device device : testing::devices()) {
    const Plan plan = plan_experts(Tensor::zeros({2, 0, 2}, DType::kInt64, device), 4);
    auto args = arguments({2, 0}, 2, 4, 3, 5, DType::kFloat32);
    for (Argument& argument : args) argument.value = testing::on(device, argument.value);
    const auto trace = testing::trace(args, [&](const Vars& in) { return Vars{mixture(in[0], in[1], in[2], plan)}; },
                                      {Tensor::zeros({2, 0, 5}, DType::kFloat32, device)});
    EXPECT_EQ(trace.outputs[0].shape(), (Shape{2, 0, 5}));
    for (const double d : trace.gradients[1].to_vector<double>()) EXPECT_EQ(d, 0);
  }
}

TEST(Experts, NameWhatDoesNotFit) {
  for (const Device device : testing::devices())
    for (const int64_t wrong : {4, -1})
      EXPECT_THAT(
          [&] {
            plan_experts(Tensor::from<int64_t>({1, 3}, {3, wrong, 0}).to(device), 4);
          },
          ::testing::ThrowsMessage<ShapeError>("plan_experts: expert: expected 0 to 3, given " + std::to_string(wrong)));
}

}  // namespace
}  // namespace ropewalk
