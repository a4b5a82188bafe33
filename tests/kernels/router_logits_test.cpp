#include "kernels/router_logits/router_logits.h"

#include <array>

#include "tests/reference/matmul.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::random_slice;
using testing::random_tensor;

TEST(RouterLogits, MatchTheDefinition) {
  for (const auto& [length, width, experts] : {std::array{1, 1, 1}, {3, 5, 4}, {70, 300, 33}}) {
    const Tensor x = random_slice({2, length, width}, 1), weight = random_tensor({experts, width}, 2), bias = random_tensor({experts}, 3);
    std::vector<double> expected;
    for (int t = 0; t < 2 * length; ++t)
      for (const double b : bias.to_vector<double>()) expected.push_back(b);
    reference::add_product(x.to_vector<double>(), reference::transposed(weight.to_vector<double>(), experts, width), expected, 2 * length,
                           experts, width);
    EXPECT_TENSOR_NEAR(router_logits(x, weight, bias).data(), Tensor::from({2, length, experts}, expected), 1e-14);
  }
}

TEST(RouterLogits, NeedNoBias) {
  const Tensor x = random_tensor({2, 3, 5}, 1), weight = random_tensor({4, 5}, 2);
  EXPECT_TENSOR_NEAR(router_logits(x, weight, Tensor::zeros({4}, DType::kFloat64)).data(), router_logits(x, weight, {}).data(), 1e-15);
}

TEST(RouterLogits, BackwardMatchesFiniteDifferences) {
  for (const int64_t experts : {1, 6})
    testing::expect_gradients({{"x", random_slice({2, 3, 5}, 1)},
                               {"weight", random_tensor({experts, 5}, 2), Argument::kParameter},
                               {"bias", random_tensor({experts}, 3), Argument::kParameter}},
                              [](const Vars& in) {
                                return Vars{router_logits(in[0], in[1], in[2]), router_logits(in[0], in[1], {})};
                              });
}

TEST(RouterLogits, AreFp32AlsoOfBf16) {
  const Tensor x = random_tensor({1, 60, 129}, 1, 1.0, DType::kBFloat16);
  EXPECT_EQ(router_logits(x, random_tensor({8, 129}, 2, 0.1, DType::kFloat32), {}).dtype(), DType::kFloat32);
  const auto logits = [](const Vars& in) { return Vars{router_logits(in[0], in[1], in[2])}; };
  testing::expect_precision({{"x", x},
                             {"weight", random_tensor({8, 129}, 2, 0.1, DType::kFloat32), Argument::kParameter},
                             {"bias", random_tensor({8}, 3, 0.1, DType::kFloat32), Argument::kParameter}},
                            logits, 1e-5, 4e-3);
}

// Few tokens and many, sums cut into parts, experts over the edge of a tile, views, one gradient only.
TEST(RouterLogits, OfNarrowTypesStayNearDouble) {
  for (const auto& [tokens, width, experts] : {std::array{1, 1, 1}, {70, 2100, 33}, {1100, 40, 70}})
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
      for (const Argument::Kind kind : {Argument::kParameter, Argument::kConstant}) {
        SCOPED_TRACE(width);
        testing::expect_precision(
            {{"x", random_slice({1, tokens, width}, 1, 1.0, dtype)},
             {"weight", random_tensor({experts, width}, 2, 0.1, DType::kFloat32), kind},
             {"bias", random_tensor({experts}, 3, 0.1, DType::kFloat32), Argument::kParameter}},
            [](const Vars& in) { return Vars{router_logits(in[0], in[1], in[2])}; }, 1e-5, dtype == DType::kFloat32 ? 1e-5 : 4e-3);
      }
}

TEST(RouterLogits, GiveTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([] {
    return testing::trace({{"x", random_slice({2, 500, 300}, 1, 1.0, DType::kBFloat16)},
                           {"weight", random_tensor({9, 300}, 2, 0.1, DType::kFloat32), Argument::kParameter},
                           {"bias", random_tensor({9}, 3, 0.1, DType::kFloat32), Argument::kParameter}},
                          [](const Vars& in) { return Vars{router_logits(in[0], in[1], in[2])}; })
        .all();
  });
}

TEST(RouterLogits, TakeNoTokens) {
  for (const Device device : testing::devices()) {
    const auto trace = testing::trace({{"x", Tensor::zeros({2, 0, 3}, DType::kFloat32, device)},
                                       {"weight", random_tensor({4, 3}, 2, 1.0, DType::kFloat32).to(device), Argument::kParameter}},
                                      [](const Vars& in) { return Vars{router_logits(in[0], in[1], {})}; },
                                      {Tensor::zeros({2, 0, 4}, DType::kFloat32, device)});
    EXPECT_EQ(trace.outputs[0].shape(), (Shape{2, 0, 4}));
  }
}

}  // namespace
}  // namespace ropewalk
