#include "kernels/gated_norm/gated_norm.h"

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

auto norm(int64_t groups) {
  return [groups](const Vars& in) { return Vars{gated_norm(in[0], in[1], in[2], groups, kEps)}; };
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

TEST(GatedNorm, EqualsItsDefinition) {
  for (const auto& [shape, groups] : kCases)
    for (const Tensor& y : {random_tensor(shape, 1), random_slice(shape, 1, 1)}) {
      const Tensor z = random_slice(shape, 2, 4), weight = random_tensor({shape[-1]}, 3);
      const auto expected = reference::gated_rms_norm(y.to_vector<double>(), z.to_vector<double>(), weight.to_vector<double>(),
                                                      static_cast<size_t>(groups), kEps);
      EXPECT_TENSOR_NEAR(norm(groups)({y, z, weight}).front().data(), Tensor::from(shape, expected), 1e-10) << shape.to_string();
    }
}

TEST(GatedNorm, BackwardMatchesFiniteDifferences) {
  for (const auto& [shape, groups] : kCases) {
    SCOPED_TRACE(shape.to_string());
    testing::expect_gradients(arguments(shape), norm(groups));
    std::vector<Argument> strided = arguments(shape);
    strided[0].value = random_slice(shape, 1, 1);
    testing::expect_gradients(strided, norm(groups));
  }
}

TEST(GatedNorm, TakesGradientsThatAreNotRows) {
  const Tensor d_out = random_tensor({2, 5, 4}, 8).narrow(1, 1, 3);
  ASSERT_FALSE(is_rows(d_out));
  const testing::Trace given = testing::trace(arguments({2, 3, 4}), norm(2), {d_out});
  const testing::Trace expected = testing::trace(arguments({2, 3, 4}), norm(2), {d_out.contiguous_copy()});
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(given.gradients[i].to_vector<double>(), expected.gradients[i].to_vector<double>());
}

TEST(GatedNorm, LeavesAFrozenWeightAlone) {
  std::vector<Argument> in = arguments({3, 8});
  const Tensor seed = random_tensor({3, 8}, 9);
  const testing::Trace trained = testing::trace(in, norm(2), {seed});
  in[2].kind = Argument::kConstant;
  const testing::Trace frozen = testing::trace(in, norm(2), {seed});
  ASSERT_EQ(frozen.gradients.size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(frozen.gradients[i].to_vector<double>(), trained.gradients[i].to_vector<double>());
}

TEST(GatedNorm, NarrowTypesStayNearDouble) {
  testing::expect_precision(arguments({100, 3, 66}, DType::kFloat32), norm(2), 1e-5, 1e-5);
  testing::expect_precision(arguments({100, 3, 66}, DType::kBFloat16), norm(2), 1e-2, 2e-2);
}

// From some lanes of a warp to more than the registers of a GPU's block hold.
TEST(GatedNorm, TakesGroupsOfAnyWidth) {
  for (const int64_t width : {8, 64, 264, 768, 2064, 8208, 16400}) {
    SCOPED_TRACE(width);
    testing::expect_narrow_precision([&](DType dtype) { return aligned_arguments({3, 2 * width}, dtype); }, norm(2));
  }
}

// More of them than a GPU has places for at once.
TEST(GatedNorm, SumsItsWeightGradientOverManyRows) {
  testing::expect_narrow_precision([](DType dtype) { return aligned_arguments({6000, 3 * 40}, dtype); }, norm(3));
  testing::expect_narrow_precision([](DType dtype) { return arguments({600, 66}, dtype); }, norm(2));
}

// As many as there are heads, and more.
TEST(GatedNorm, TakesManyGroups) {
  testing::expect_narrow_precision([](DType dtype) { return aligned_arguments({40, 300 * 8}, dtype); }, norm(300));
}

TEST(GatedNorm, StaysFiniteAtExtremeGates) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16}) {
    std::vector<Argument> in = arguments({1, 4}, dtype);
    in[1].value = Tensor::from<double>({1, 4}, {-1000, -90, 90, 1000}).to(dtype);
    const Tensors seeds = testing::random_seeds(in, norm(1));
    for (const Device device : dtype == DType::kFloat64 ? std::vector<Device>{Cpu{}} : testing::devices())
      for (const Tensor& tensor : testing::trace(testing::on(device, in), norm(1), testing::on(device, seeds)).all())
        for (const double value : tensor.to_vector<double>()) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(GatedNorm, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return testing::trace(arguments({3, 6000, 66}, DType::kFloat32), norm(2)).all();
  });
}

TEST(GatedNorm, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}})
    for (const Device device : testing::devices()) {
      const std::vector<Argument> in = testing::on(device, arguments(shape, DType::kFloat32));
      const testing::Trace given = testing::trace(in, norm(2), {Tensor::zeros(shape, DType::kFloat32, device)});
      EXPECT_EQ(given.outputs[0].shape(), shape);
      for (const double g : given.gradients[2].to_vector<double>()) EXPECT_EQ(g, 0);
    }
}

TEST(GatedNorm, NamesWhatDoesNotFit) {
  const Tensor y = Tensor::zeros({2, 6}, DType::kBFloat16), weight = Tensor::zeros({6}, DType::kFloat32);
  EXPECT_THAT([&] { gated_norm(y, y.narrow(1, 0, 5), weight, 1, kEps); },
              ::testing::ThrowsMessage<ShapeError>("gated_norm: z: expected bf16 [2, 6] as y, given bf16 [2, 5]"));
  EXPECT_THAT([&] { gated_norm(y, y, weight.narrow(0, 0, 5), 1, kEps); },
              ::testing::ThrowsMessage<ShapeError>("gated_norm: weight: expected fp32 [6], given fp32 [5]"));
  EXPECT_THAT([&] { gated_norm(y, y, weight, 4, kEps); },
              ::testing::ThrowsMessage<ShapeError>("gated_norm: groups: expected a divisor of 6 (last dim of y), given 4"));
}

}  // namespace
}  // namespace ropewalk
