#include "kernels/gated_rms_norm/gated_rms_norm.h"

#include <gmock/gmock.h>

#include "tests/reference/gated_rms_norm.h"
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

struct Case {
  Shape shape;
  int64_t groups;
};
const std::vector<Case> kCases = {{{1, 1}, 1}, {{6}, 2}, {{2, 3, 7}, 1}, {{3, 5}, 5}, {{2, 2, 70}, 2}};

// Both halves, all groups here.
auto norm(int64_t groups) {
  return [groups](const Vars& in) {
    return Vars{gated_rms_norm(in[0], in[1], in[2], gated_square_sum(in[0], in[1], groups), in[0].dim(-1) / groups, kEps)};
  };
}

std::vector<Argument> arguments(const Shape& shape, DType dtype = DType::kFloat64) {
  return {{"y", random_tensor(shape, 1, 1, dtype)},
          {"z", random_slice(shape, 2, 4, dtype)},
          {"weight", random_tensor({shape[-1]}, 3, 1, wide(dtype)), Argument::kParameter}};
}

// That can be read in packs.
std::vector<Argument> aligned_arguments(const Shape& shape, DType dtype) {
  std::vector<Argument> in = arguments(shape, dtype);
  in[1].value = random_aligned_slice(shape, 2, 4, dtype);
  return in;
}

TEST(GatedRmsNorm, EqualsItsDefinition) {
  for (const auto& [shape, groups] : kCases)
    for (const Tensor& y : {random_tensor(shape, 1), random_slice(shape, 1, 1)}) {
      const Tensor z = random_slice(shape, 2, 4), weight = random_tensor({shape[-1]}, 3);
      const auto expected = reference::gated_rms_norm(y.to_vector<double>(), z.to_vector<double>(), weight.to_vector<double>(),
                                                      static_cast<size_t>(groups), kEps);
      EXPECT_TENSOR_NEAR(norm(groups)({y, z, weight}).front().data(), Tensor::from(shape, expected), 1e-10) << shape.to_string();
    }
}

TEST(GatedRmsNorm, BackwardMatchesFiniteDifferences) {
  for (const auto& [shape, groups] : kCases) {
    SCOPED_TRACE(shape.to_string());
    testing::expect_gradients(arguments(shape), norm(groups));
    std::vector<Argument> strided = arguments(shape);
    strided[0].value = random_slice(shape, 1, 1);
    testing::expect_gradients(strided, norm(groups));
  }
}

// The norm of y, then gated.
auto norm_first(int64_t groups) {
  return [groups](const Vars& in) {
    return Vars{gated_rms_norm(in[0], in[1], in[2], square_sum(in[0], groups), in[0].dim(-1) / groups, kEps)};
  };
}

TEST(GatedRmsNorm, NormFirstEqualsItsDefinition) {
  for (const auto& [shape, groups] : kCases)
    for (const Tensor& y : {random_tensor(shape, 1), random_slice(shape, 1, 1)}) {
      const Tensor z = random_slice(shape, 2, 4), weight = random_tensor({shape[-1]}, 3);
      const auto expected = reference::gated_rms_norm(y.to_vector<double>(), z.to_vector<double>(), weight.to_vector<double>(),
                                                      static_cast<size_t>(groups), kEps, true);
      EXPECT_TENSOR_NEAR(norm_first(groups)({y, z, weight}).front().data(), Tensor::from(shape, expected), 1e-10) << shape.to_string();
    }
}

TEST(GatedRmsNorm, NormFirstBackwardMatchesFiniteDifferences) {
  for (const auto& [shape, groups] : kCases) {
    SCOPED_TRACE(shape.to_string());
    std::vector<Argument> in = arguments(shape);
    testing::expect_gradients(in, norm_first(groups));
    in[0].value = random_slice(shape, 1, 1);
    testing::expect_gradients(in, norm_first(groups));
    testing::expect_gradients({in[0]}, [g = groups](const Vars& y) { return Vars{square_sum(y[0], g)}; });
  }
}

TEST(GatedRmsNorm, NormFirstInNarrowTypesStaysNearDouble) {
  testing::expect_precision(arguments({40, 70}, DType::kFloat32), norm_first(2), 1e-5, 1e-5);
  testing::expect_precision(arguments({40, 70}, DType::kBFloat16), norm_first(2), 1e-2, 2e-2);
}

// Each half alone, the middle an input of its own: what the caller relies on when it sums the middle over ranks.
TEST(GatedRmsNorm, HalvesMatchFiniteDifferences) {
  for (const auto& [shape, groups] : kCases) {
    SCOPED_TRACE(shape.to_string());
    std::vector<Argument> in = arguments(shape);
    testing::expect_gradients({in[0], in[1]}, [g = groups](const Vars& in) { return Vars{gated_square_sum(in[0], in[1], g)}; });
    Tensor square_sum = random_tensor(shape.with(-1, groups), 4);
    for (int64_t i = 0; i < square_sum.numel(); ++i) square_sum.data<double>()[i] += 1.5;
    in.push_back({"square_sum", square_sum});
    testing::expect_gradients(in, [](const Vars& in) { return Vars{gated_rms_norm(in[0], in[1], in[2], in[3], 2 * in[0].dim(-1), kEps)}; });
  }
}

// Two ranks hold half of a group's channels each.
TEST(GatedRmsNorm, GroupCutOverTwoRanksEqualsTheWhole) {
  const Shape shape = {2, 3, 14};
  const std::vector<Argument> whole = arguments(shape);
  const Tensor seed = random_tensor(shape, 9);
  const testing::Trace expected = testing::trace(whole, norm(1), {seed});

  Tape tape;
  Vars y, z, weight, sums;
  for (const int64_t begin : {0, 7}) {
    y.push_back(tape.input(whole[0].value.narrow(-1, begin, 7)));
    z.push_back(tape.input(whole[1].value.narrow(-1, begin, 7)));
    weight.push_back(testing::parameter("weight", whole[2].value.narrow(0, begin, 7)));
    sums.push_back(gated_square_sum(y.back(), z.back(), 1));
  }
  const Tensor sum = sums[0].data().contiguous_copy();
  sum.add(sums[1].data());
  const Var joined = record("sum_over_ranks", sums, sum, [](Backprop& b) {
    b.give(0, b.dy(0));
    b.give(1, b.dy(0));
  });
  Vars out;
  for (size_t rank = 0; rank < 2; ++rank) out.push_back(gated_rms_norm(y[rank], z[rank], weight[rank], joined, 14, kEps));
  const Tensors grads = tape.backward(out, {seed.narrow(-1, 0, 7), seed.narrow(-1, 7, 7)});

  EXPECT_TENSOR_NEAR(concat({out[0].data(), out[1].data()}, -1), expected.outputs[0], 1e-14);
  EXPECT_TENSOR_NEAR(concat({grads[0], grads[2]}, -1), expected.gradients[0], 1e-14);
  EXPECT_TENSOR_NEAR(concat({grads[1], grads[3]}, -1), expected.gradients[1], 1e-14);
  EXPECT_TENSOR_NEAR(concat({weight[0].leaf()->grad, weight[1].leaf()->grad}, 0), expected.gradients[2], 1e-14);
}

// The sums of the parts that other ranks hold come in from outside.
TEST(GatedRmsNorm, TakesSumsOfWiderGroupsInNarrowTypes) {
  const auto halves = [](const Vars& in) {
    const int64_t groups = in[3].dim(-1), group_width = 2 * in[0].dim(-1) / groups;
    return Vars{gated_rms_norm(in[0], in[1], in[2], in[3], group_width, kEps), gated_square_sum(in[0], in[1], groups),
                square_sum(in[0], groups)};
  };
  for (const int64_t width : {5, 64, 520}) {
    SCOPED_TRACE(width);
    testing::expect_narrow_precision(
        [&](DType dtype) {
          std::vector<Argument> in = aligned_arguments({2, 7, 3 * width}, dtype);
          const Tensor sums = Tensor::full({2, 7, 3}, static_cast<double>(width), wide(dtype));
          sums.add(random_tensor({2, 7, 3}, 4, 0.5, wide(dtype)));
          in.push_back({"square_sum", sums});
          return in;
        },
        halves);
  }
}

TEST(GatedRmsNorm, TakesGradientsThatAreNotRows) {
  const Tensor d_out = random_tensor({2, 5, 4}, 8).narrow(1, 1, 3), d_sum = random_tensor({2, 5, 2}, 9).narrow(1, 1, 3);
  ASSERT_FALSE(is_rows(d_out) || is_rows(d_sum));
  const auto both = [](const Vars& in) {
    const Var sum = gated_square_sum(in[0], in[1], 2);
    return Vars{gated_rms_norm(in[0], in[1], in[2], sum, 2, kEps), sum};
  };
  const testing::Trace given = testing::trace(arguments({2, 3, 4}), both, {d_out, Tensor()});
  const testing::Trace expected = testing::trace(arguments({2, 3, 4}), both, {d_out.contiguous_copy(), Tensor()});
  const testing::Trace sum_given = testing::trace(arguments({2, 3, 4}), both, {Tensor(), d_sum});
  const testing::Trace sum_expected = testing::trace(arguments({2, 3, 4}), both, {Tensor(), d_sum.contiguous_copy()});
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(given.gradients[i].to_vector<double>(), expected.gradients[i].to_vector<double>());
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(sum_given.gradients[i].to_vector<double>(), sum_expected.gradients[i].to_vector<double>());
}

TEST(GatedRmsNorm, LeavesAFrozenWeightAlone) {
  std::vector<Argument> in = arguments({3, 8});
  const Tensor seed = random_tensor({3, 8}, 9);
  const testing::Trace trained = testing::trace(in, norm(2), {seed});
  in[2].kind = Argument::kConstant;
  const testing::Trace frozen = testing::trace(in, norm(2), {seed});
  ASSERT_EQ(frozen.gradients.size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(frozen.gradients[i].to_vector<double>(), trained.gradients[i].to_vector<double>());
}

TEST(GatedRmsNorm, NarrowTypesStayNearDouble) {
  testing::expect_precision(arguments({100, 3, 66}, DType::kFloat32), norm(2), 1e-5, 1e-5);
  testing::expect_precision(arguments({100, 3, 66}, DType::kBFloat16), norm(2), 1e-2, 2e-2);
}

// From some lanes of a warp to more than the registers of a GPU's block hold.
TEST(GatedRmsNorm, TakesGroupsOfAnyWidth) {
  for (const int64_t width : {8, 64, 264, 768, 2064, 8208, 16400}) {
    SCOPED_TRACE(width);
    testing::expect_narrow_precision([&](DType dtype) { return aligned_arguments({3, 2 * width}, dtype); }, norm(2));
    testing::expect_narrow_precision([&](DType dtype) { return aligned_arguments({3, 2 * width}, dtype); }, norm_first(2));
  }
}

// More of them than a GPU has places for at once.
TEST(GatedRmsNorm, SumsItsWeightGradientOverManyRows) {
  testing::expect_narrow_precision([](DType dtype) { return aligned_arguments({6000, 3 * 40}, dtype); }, norm(3));
  testing::expect_narrow_precision([](DType dtype) { return arguments({600, 66}, dtype); }, norm(2));
}

// As many as there are heads, and more.
TEST(GatedRmsNorm, TakesManyGroups) {
  testing::expect_narrow_precision([](DType dtype) { return aligned_arguments({40, 300 * 8}, dtype); }, norm(300));
}

TEST(GatedRmsNorm, StaysFiniteAtExtremeGates) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16}) {
    std::vector<Argument> in = arguments({1, 4}, dtype);
    in[1].value = Tensor::from<double>({1, 4}, {-1000, -90, 90, 1000}).to(dtype);
    const Tensors seeds = testing::random_seeds(in, norm(1));
    for (const Device device : dtype == DType::kFloat64 ? std::vector<Device>{Cpu{}} : testing::devices())
      for (const Tensor& tensor : testing::trace(testing::on(device, in), norm(1), testing::on(device, seeds)).all())
        for (const double value : tensor.to_vector<double>()) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(GatedRmsNorm, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments({3, 6000, 66}, DType::kFloat32), norm(2)).all();
  });
}

TEST(GatedRmsNorm, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}})
    for (const Device device : testing::devices()) {
      const std::vector<Argument> in = testing::on(device, arguments(shape, DType::kFloat32));
      const testing::Trace given = testing::trace(in, norm(2), {Tensor::zeros(shape, DType::kFloat32, device)});
      EXPECT_EQ(given.outputs[0].shape(), shape);
      for (const double g : given.gradients[2].to_vector<double>()) EXPECT_EQ(g, 0);
    }
  for (const Device device : testing::devices()) {
    const Tensor nothing = Tensor::zeros({3, 0}, DType::kFloat32, device);
    EXPECT_EQ(gated_square_sum(nothing, nothing, 1).data().to_vector<double>(), std::vector<double>(3, 0.0));
  }
}

TEST(GatedRmsNorm, NamesWhatDoesNotFit) {
  const Tensor y = Tensor::zeros({2, 6}, DType::kBFloat16), weight = Tensor::zeros({6}, DType::kFloat32), sums = weight.reshape({2, 3});
  EXPECT_THAT([&] { gated_square_sum(y, y.narrow(1, 0, 5), 1); },
              ::testing::ThrowsMessage<ShapeError>("gated_square_sum: z: expected bf16 [2, 6] as y, given bf16 [2, 5]"));
  EXPECT_THAT([&] { gated_square_sum(y, y, 4); },
              ::testing::ThrowsMessage<ShapeError>("gated_square_sum: groups: expected a divisor of 6 (last dim of y), given 4"));
  EXPECT_THAT([&] { gated_rms_norm(y, y, weight.narrow(0, 0, 5), sums, 2, kEps); },
              ::testing::ThrowsMessage<ShapeError>("gated_rms_norm: weight: expected fp32 [6], given fp32 [5]"));
  EXPECT_THAT(
      [&] { gated_rms_norm(y, y, weight, sums.narrow(0, 0, 1), 2, kEps); },
      ::testing::ThrowsMessage<ShapeError>("gated_rms_norm: square_sum: expected fp32, one a group of y [2, 6], given fp32 [1, 3]"));
  EXPECT_THAT([&] { gated_rms_norm(y, y, weight, sums, 1, kEps); },
              ::testing::ThrowsMessage<ShapeError>(
                  "gated_rms_norm: group_width: expected at least 2 (the channels of a group that are here), given 1"));
}

}  // namespace
}  // namespace ropewalk
