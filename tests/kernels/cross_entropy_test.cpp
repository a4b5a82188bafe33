#include "kernels/cross_entropy/cross_entropy.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "kernels/tensor/allocator.h"
#include "tests/reference/cross_entropy.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_slice;
using testing::on;
using testing::random_tensor;

// Random targets below `vocabulary`; every fourth token is not scored.
Tensor targets(const Shape& shape, int64_t vocabulary) {
  const Tensor ids = random_tensor(shape, 77);
  std::vector<int64_t> values;
  for (const double u : ids.to_vector<double>())
    values.push_back(values.size() % 4 == 2 ? kIgnored : static_cast<int64_t>((u + 1) / 2 * static_cast<double>(vocabulary)));
  return Tensor::from(shape, values);
}

std::vector<Argument> arguments(const Tensor& x, int64_t vocabulary) {
  return {{"x", x}, {"weight", random_tensor({vocabulary, x.dim(-1)}, 2, 1, x.dtype()), Argument::kParameter}};
}

auto scores(const Tensor& target, int64_t first_row = 0, double logit_scale = 1) {
  return [=](const Vars& in) {
    const HeadScores s = head_scores(in[0], in[1], testing::on(in[0].data().device(), target), first_row, logit_scale);
    return Vars{s.log_sum_exp, s.target_logit};
  };
}

auto loss(const Tensor& target) {
  return [=](const Vars& in) {
    const Tensor there = testing::on(in[0].data().device(), target);
    return Vars{cross_entropy(head_scores(in[0], in[1], there, 0), there)};
  };
}

// The devices that compute in this dtype.
std::vector<Device> devices_for(DType dtype) { return dtype == DType::kFloat64 ? std::vector<Device>{Cpu{}} : testing::devices(); }

const Tensor kOne = Tensor::full({1}, 1, DType::kFloat64);

struct Case {
  Shape tokens;
  int64_t width, vocabulary;
};

// The last is wider than a block both ways.
TEST(HeadScores, EqualTheirDefinition) {
  for (const auto& [tokens, width, vocabulary] : std::vector<Case>{{{1}, 1, 1}, {{}, 3, 5}, {{2, 3}, 5, 7}, {{1, 1500}, 3, 2100}})
    for (const bool slice : {false, true}) {
      const Shape shape = tokens.then({width});
      SCOPED_TRACE(shape.to_string());
      const std::vector<Argument> in = arguments(slice ? random_slice(shape, 1) : random_tensor(shape, 1), vocabulary);
      const Tensor target = targets(tokens, vocabulary);
      const reference::CrossEntropy expected = reference::cross_entropy(in[0].value.to_vector<double>(), in[1].value.to_vector<double>(),
                                                                        target.to_vector<int64_t>(), static_cast<size_t>(width));
      const Vars halves = scores(target)({in[0].value, in[1].value});
      EXPECT_TENSOR_NEAR(halves[0].data(), Tensor::from(tokens, expected.log_sum_exp), 1e-10);
      EXPECT_TENSOR_NEAR(halves[1].data(), Tensor::from(tokens, expected.target_logit), 1e-10);

      const testing::Trace given = testing::trace(in, loss(target), {kOne});
      EXPECT_NEAR(given.outputs[0].item(), expected.loss, 1e-10 * std::abs(expected.loss) + 1e-15);
      EXPECT_LT(testing::relative_error(given.gradients[0], Tensor::from(shape, expected.dx), 1e-5), 1e-10);
      EXPECT_LT(testing::relative_error(given.gradients[1], Tensor::from({vocabulary, width}, expected.dweight), 1e-5), 1e-10);
    }
}

TEST(HeadScores, BackwardMatchesFiniteDifferences) {
  for (const auto& [tokens, width, vocabulary] : std::vector<Case>{{{1}, 1, 1}, {{2, 3}, 5, 7}, {{9}, 4, 3}})
    for (const int64_t first_row : {0, 2}) {
      const Shape shape = tokens.then({width});
      SCOPED_TRACE(shape.to_string());
      const Tensor target = targets(tokens, vocabulary + 3);  // some targets' rows are on another rank
      testing::expect_gradients(arguments(random_tensor(shape, 1), vocabulary), scores(target, first_row));
      testing::expect_gradients(arguments(random_slice(shape, 1), vocabulary), scores(target, first_row));
    }
}

// As if the weight had the factor, whose own gradient then has it once more.
TEST(HeadScores, ScaleTheirLogits) {
  const double scale = 0.375;
  for (const auto& [tokens, width, vocabulary] : std::vector<Case>{{{2, 3}, 5, 7}, {{1, 1500}, 3, 2100}}) {
    const Shape shape = tokens.then({width});
    const Tensor target = targets(tokens, vocabulary);
    const std::vector<Argument> in = arguments(random_slice(shape, 1), vocabulary);
    const auto scaled_loss = [&](const Vars& v) { return Vars{cross_entropy(head_scores(v[0], v[1], target, 0, scale), target)}; };
    std::vector<double> weight = in[1].value.to_vector<double>();
    for (double& w : weight) w *= scale;
    reference::CrossEntropy expected =
        reference::cross_entropy(in[0].value.to_vector<double>(), weight, target.to_vector<int64_t>(), static_cast<size_t>(width));
    for (double& w : expected.dweight) w *= scale;
    const testing::Trace given = testing::trace(in, scaled_loss, {kOne});
    EXPECT_NEAR(given.outputs[0].item(), expected.loss, 1e-10 * std::abs(expected.loss));
    EXPECT_TENSOR_NEAR(given.gradients[0], Tensor::from(shape, expected.dx), 1e-10);
    EXPECT_TENSOR_NEAR(given.gradients[1], Tensor::from({vocabulary, width}, expected.dweight), 1e-10);
  }
  const Tensor target = targets({9}, 6);
  testing::expect_gradients(arguments(random_tensor({9, 4}, 1), 3), scores(target, 2, scale));
}

TEST(HeadScores, OneHalfAloneMatchesFiniteDifferences) {
  const Tensor target = targets({6}, 5);
  for (const size_t half : {0, 1})
    testing::expect_gradients(arguments(random_tensor({6, 3}, 1), 5), [&](const Vars& in) { return Vars{scores(target)(in)[half]}; });
}

// What tp_vocabulary_sum does over ranks.
HeadScores joined(const HeadScores& a, const HeadScores& b) {
  const Tensor log_sum_exp = empty_like(a.log_sum_exp.data()), target_logit = a.target_logit.data().contiguous_copy();
  const auto left = a.log_sum_exp.data(), right = b.log_sum_exp.data();
  for (int64_t i = 0; i < log_sum_exp.numel(); ++i)
    log_sum_exp.data<double>()[i] = std::log(std::exp(left.data<double>()[i]) + std::exp(right.data<double>()[i]));
  target_logit.add(b.target_logit.data());
  const Vars vars = record("join", {a.log_sum_exp, a.target_logit, b.log_sum_exp, b.target_logit}, Tensors{log_sum_exp, target_logit},
                           [=](Backprop& back) {
                             for (const int rank : {0, 1}) {
                               const Tensor share = back.dy(0).contiguous_copy();
                               const Tensor& part = rank == 0 ? left : right;
                               for (int64_t i = 0; i < share.numel(); ++i)
                                 share.data<double>()[i] *= std::exp(part.data<double>()[i] - log_sum_exp.data<double>()[i]);
                               back.give(2 * rank, share);
                               back.give(2 * rank + 1, back.dy(1));
                             }
                           });
  return {vars[0], vars[1]};
}

TEST(HeadScores, VocabularyCutOverTwoRanksEqualsTheWhole) {
  const int64_t vocabulary = 11, width = 4;
  const Tensor x = random_tensor({3, 5, width}, 1), weight = random_tensor({vocabulary, width}, 2), target = targets({3, 5}, vocabulary);
  const testing::Trace whole = testing::trace(arguments(x, vocabulary), loss(target), {kOne});
  for (const int64_t cut : {0, 1, 6, 11}) {
    SCOPED_TRACE(cut);
    Tape tape;
    const Var input = tape.input(x), low = testing::parameter("low", weight.narrow(0, 0, cut)),
              high = testing::parameter("high", weight.narrow(0, cut, vocabulary - cut));
    const Var sum = cross_entropy(joined(head_scores(input, low, target, 0), head_scores(input, high, target, cut)), target);
    const Tensor dx = tape.backward({sum}, {kOne}).front();
    EXPECT_TENSOR_NEAR(sum.data(), whole.outputs[0], 1e-13);
    EXPECT_TENSOR_NEAR(dx, whole.gradients[0], 1e-13);
    EXPECT_TENSOR_NEAR(concat({low.leaf()->grad, high.leaf()->grad}, 0), whole.gradients[1], 1e-13);
  }
}

// A rank may hold no row at all where the vocabulary does not divide.
TEST(HeadScores, WithoutRowsAreMinusInfinityWithZeroGradients) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const Device device : devices_for(dtype)) {
      const Tensor target = Tensor::from<int64_t>({3}, {5, kIgnored, 0}), seed = Tensor::full({3}, 1, wide(dtype), device);
      const std::vector<Argument> in = on(device, arguments(random_tensor({3, 4}, 1, 1, dtype), 0));
      const testing::Trace given = testing::trace(in, scores(target, 9), {seed, seed});
      const double infinity = std::numeric_limits<double>::infinity();
      EXPECT_EQ(given.outputs[0].to_vector<double>(), (std::vector<double>{-infinity, 0, -infinity}));
      EXPECT_EQ(given.outputs[1].to_vector<double>(), std::vector<double>(3, 0.0));
      EXPECT_EQ(given.gradients[0].to_vector<double>(), std::vector<double>(12, 0.0));
    }
}

TEST(HeadScores, DoNotTouchIgnoredTokens) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const DType dtype : {DType::kFloat64, DType::kBFloat16})
    for (const Device device : devices_for(dtype)) {
      const Tensor target = Tensor::from<int64_t>({3}, {2, kIgnored, 0}), x = random_tensor({3, 4}, 1, 1, dtype), one = kOne.to(device);
      x.narrow(0, 1, 1).fill(nan);
      const testing::Trace given = testing::trace(on(device, arguments(x, 5)), loss(target), {one});
      const Tensor scored = concat({x.narrow(0, 0, 1), x.narrow(0, 2, 1)}, 0);
      const testing::Trace expected = testing::trace(on(device, arguments(scored, 5)), loss(Tensor::from<int64_t>({2}, {2, 0})), {one});
      EXPECT_EQ(given.outputs[0].item(), expected.outputs[0].item());
      EXPECT_EQ(given.gradients[1].to_vector<double>(), expected.gradients[1].to_vector<double>());
      const Tensor dx = given.gradients[0].to(Cpu{});
      EXPECT_EQ(dx.narrow(0, 1, 1).to_vector<double>(), std::vector<double>(4, 0.0));
      EXPECT_EQ(concat({dx.narrow(0, 0, 1), dx.narrow(0, 2, 1)}, 0).to_vector<double>(), expected.gradients[0].to_vector<double>());
    }
}

TEST(HeadScores, GiveZeroGradientsWhereNothingIsScored) {
  for (const Device device : testing::devices())
    for (const Shape& shape : {Shape{2, 3, 4}, Shape{2, 0, 4}, Shape{2, 3, 0}}) {
      const Tensor target = Tensor::from(shape.first(2), std::vector<int64_t>(static_cast<size_t>(shape.first(2).numel()), kIgnored));
      const testing::Trace given =
          testing::trace(on(device, arguments(Tensor::zeros(shape, DType::kFloat32), 5)), loss(target), {kOne.to(device)});
      EXPECT_EQ(given.outputs[0].item(), 0);
      ASSERT_TRUE(given.gradients[0]);  // whoever is behind x may have a collective to call
      for (const Tensor& gradient : given.gradients)
        for (const double g : gradient.to_vector<double>()) EXPECT_EQ(g, 0);
    }
}

TEST(HeadScores, GiveOnlyWhatIsWanted) {
  const Tensor target = targets({6}, 5);
  std::vector<Argument> in = arguments(random_tensor({6, 3}, 1), 5);
  const testing::Trace both = testing::trace(in, loss(target), {kOne});
  for (const size_t frozen : {0, 1}) {
    std::vector<Argument> part = in;
    part[frozen].kind = Argument::kConstant;
    const testing::Trace given = testing::trace(part, loss(target), {kOne});
    EXPECT_EQ(given.gradients[0].to_vector<double>(), both.gradients[1 - frozen].to_vector<double>());
  }
}

TEST(HeadScores, StayFiniteAtLargeLogits) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const Device device : devices_for(dtype)) {
      const std::vector<Argument> in = {{"x", Tensor::from<double>({2, 1}, {1000, -1000}).to(dtype)},
                                        {"weight", Tensor::from<double>({3, 1}, {2, 1, -2}).to(dtype), Argument::kParameter}};
      const testing::Trace given = testing::trace(on(device, in), loss(Tensor::from<int64_t>({2}, {1, 2})), {kOne.to(device)});
      EXPECT_NEAR(given.outputs[0].item(), 1000, 1e-2);
      EXPECT_EQ(given.gradients[0].to_vector<double>(), (std::vector<double>{1, 0}));
    }
}

TEST(HeadScores, KeepOnlyABlockOfLogits) {
  const int64_t tokens = 1100, vocabulary = 9000;
  const std::vector<Argument> in = arguments(random_tensor({tokens, 8}, 1, 1, DType::kFloat32), vocabulary);
  const int64_t before = Allocator::host().stats().in_use;
  Allocator::host().reset_peak();
  testing::trace(in, loss(targets({tokens}, vocabulary)), {kOne});
  const int64_t all_logits = tokens * vocabulary * static_cast<int64_t>(sizeof(float));
  EXPECT_LT(Allocator::host().stats().peak - before, all_logits / 2);
}

TEST(HeadScores, NarrowTypesStayNearDouble) {
  const Tensor target = targets({600}, 300);
  for (const auto& function : {std::function<Vars(const Vars&)>(scores(target)), std::function<Vars(const Vars&)>(loss(target))}) {
    testing::expect_precision(arguments(random_tensor({600, 40}, 1, 1, DType::kFloat32), 300), function, 1e-5, 1e-5);
    testing::expect_precision(arguments(random_tensor({600, 40}, 1, 1, DType::kBFloat16), 300), function, 1e-2, 2e-2);
  }
}

// Sizes around those of blocks and tiles, views, targets whose rows are on another rank, one gradient only.
TEST(HeadScores, OfNarrowTypesStayNearDoubleInAllSizes) {
  for (const auto& [tokens, width, vocabulary] :
       std::vector<Case>{{{1}, 1, 1}, {{}, 3, 5}, {{3, 43}, 33, 257}, {{128}, 64, 256}, {{130}, 8, 40}})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const Shape shape = tokens.then({width});
      SCOPED_TRACE(shape.to_string());
      const double output = dtype == DType::kFloat32 ? 1e-5 : 1e-2, gradient = 2 * output;
      const Tensor target = targets(tokens, vocabulary + 3);
      testing::expect_precision(arguments(random_slice(shape, 1, 1, dtype), vocabulary), scores(target, 2, 0.375), output, gradient);
      for (const size_t frozen : {0, 1}) {
        std::vector<Argument> in = arguments(random_tensor(shape, 1, 1, dtype), vocabulary);
        in[frozen].kind = Argument::kConstant;
        testing::expect_precision(in, scores(target), output, gradient);
      }
    }
}

// More tokens, and more rows of weight, than a block has.
TEST(HeadScores, OfNarrowTypesStayNearDoubleOverSeveralBlocks) {
  const auto many_tokens = arguments(random_tensor({4100, 3}, 1, 1, DType::kBFloat16), 20);
  testing::expect_precision(many_tokens, loss(targets({4100}, 20)), 1e-2, 2e-2);
  const auto many_rows = arguments(random_tensor({9, 3}, 1, 1, DType::kFloat32), 16500);
  testing::expect_precision(many_rows, loss(targets({9}, 16500)), 1e-5, 1e-5);
}

TEST(HeadScores, GiveTheSameBitsOnOneAndTwoThreads) {
  const Tensor target = targets({2000}, 3000);
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments(random_tensor({2000, 64}, 1, 1, DType::kFloat32), 3000), loss(target)).all();
  });
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments(random_tensor({2000, 64}, 1, 1, DType::kBFloat16), 3000), loss(target)).all();
  });
}

TEST(HeadScores, NameWhatDoesNotFit) {
  const Tensor x = Tensor::zeros({2, 3, 4}, DType::kBFloat16), weight = Tensor::zeros({5, 4}, DType::kBFloat16),
               target = targets({2, 3}, 5);
  EXPECT_THAT(
      [&] { head_scores(x, weight.narrow(1, 0, 3), target, 0); },
      ::testing::ThrowsMessage<ShapeError>("head_scores: weight: expected bf16 [*, 4] (last dim of x [2, 3, 4]), given bf16 [5, 3]"));
  EXPECT_THAT([&] { head_scores(x, weight, target.narrow(0, 0, 1), 0); },
              ::testing::ThrowsMessage<ShapeError>("head_scores: target: expected int64 [2, 3], given int64 [1, 3]"));
}

TEST(CrossEntropy, MatchesFiniteDifferences) {
  const Tensor target = targets({2, 7}, 5);
  testing::expect_gradients({{"log_sum_exp", random_tensor({2, 7}, 1)}, {"target_logit", random_tensor({2, 7, 3}, 2).select(-1, 1)}},
                            [&](const Vars& in) {
                              return Vars{cross_entropy({in[0], in[1]}, target)};
                            });
}

TEST(CrossEntropy, SumsInDouble) {
  const Tensor target = Tensor::from<int64_t>({3}, {0, kIgnored, 0});
  const Tensor log_sum_exp = Tensor::from<float>({3}, {1e8f, 5, 1.5f}), target_logit = Tensor::from<float>({3}, {0.25f, 3, 0.25f});
  for (const Device device : testing::devices())
    EXPECT_EQ(cross_entropy({log_sum_exp.to(device), target_logit.to(device)}, target.to(device)).data().item(), 1e8 + 1);
}

TEST(CrossEntropy, NamesWhatDoesNotFit) {
  const Tensor target = targets({4}, 3), wide = Tensor::zeros({4}, DType::kFloat32);
  EXPECT_THAT(
      [&] {
        cross_entropy({wide.to(DType::kBFloat16), wide}, target);
      },
      ::testing::ThrowsMessage<ShapeError>("cross_entropy: log_sum_exp: expected fp32 or fp64 [4] (shape of target), given bf16 [4]"));
  EXPECT_THAT(
      [&] {
        cross_entropy({wide, wide.narrow(0, 0, 3)}, target);
      },
      ::testing::ThrowsMessage<ShapeError>("cross_entropy: target_logit: expected fp32 [4] as log_sum_exp, given fp32 [3]"));
}

}  // namespace
}  // namespace ropewalk
