#include "kernels/top_logits/top_logits.h"

#include <gtest/gtest.h>

#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/tensor/philox.h"
#include "tests/support/precision.h"

namespace ropewalk {
namespace {

Tensor random_values(const Shape& shape, const char* name) {
  const Philox random(1, name);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i);
  return Tensor::from(shape, values);
}

struct Tops {
  std::vector<double> logits;
  std::vector<int64_t> rows;
};

Tops tops_of(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& targets, int64_t first_row = 0) {
  const Tensor target = Tensor::from({static_cast<int64_t>(targets.size())}, targets).to(x.device());
  const Tensor logit = Tensor::empty(target.shape(), wide(x.dtype()), x.device()), row = empty_like(target);
  launch(x.device(), TopLogits{.top_logit = logit, .top_row = row, .x = x, .weight = weight, .target = target, .first_row = first_row});
  return {logit.to_vector<double>(), row.to_vector<int64_t>()};
}

TEST(TopLogits, AreTheLargestOfEachScoredToken) {
  constexpr int64_t kTokens = 7, kWidth = 5, kRows = 2500;  // more than two blocks of rows
  const Tensor x = random_values({kTokens, kWidth}, "x"), weight = random_values({kRows, kWidth}, "weight");
  const Tops tops = tops_of(x, weight, {0, kIgnored, 3, 2499, kIgnored, 1, 9}, 100);
  const auto xs = x.to_vector<double>(), weights = weight.to_vector<double>();
  for (int64_t t = 0; t < kTokens; ++t) {
    double best = -1e300;
    int64_t row = -1;
    for (int64_t v = 0; v < kRows; ++v) {
      double logit = 0;
      for (int64_t d = 0; d < kWidth; ++d) logit += xs[t * kWidth + d] * weights[v * kWidth + d];
      if (logit > best) best = logit, row = v;
    }
    const bool ignored = t == 1 || t == 4;
    EXPECT_EQ(tops.rows[t], ignored ? -1 : row + 100);
    EXPECT_NEAR(tops.logits[t], ignored ? 0 : best, 1e-12);
  }
}

TEST(TopLogits, OfNarrowTypesAreThoseOfTheSameNumbersInDouble) {
  constexpr int64_t kTokens = 133;
  std::vector<int64_t> targets(kTokens, 4);
  targets[5] = targets[131] = kIgnored;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const int64_t width : {1, 21, 64}) {
      const Tensor x = random_values({kTokens, width}, "x").to(dtype), weight = random_values({700, width}, "weight").to(dtype);
      const Tops expected = tops_of(x.to(DType::kFloat64), weight.to(DType::kFloat64), targets, 7);
      for (const Device device : testing::devices()) {
        const Tops given = tops_of(x.to(device), weight.to(device), targets, 7);
        EXPECT_EQ(given.rows, expected.rows);
        for (size_t t = 0; t < targets.size(); ++t) EXPECT_NEAR(given.logits[t], expected.logits[t], 1e-5 * std::abs(expected.logits[t]));
      }
    }
}

TEST(TopLogits, AreTheFirstOfEqualOnes) {
  for (const Device device : testing::devices()) {
    const Tensor x = Tensor::full({2, 3}, 1, DType::kFloat32, device), weight = Tensor::full({1500, 3}, 2, DType::kFloat32, device);
    EXPECT_EQ(tops_of(x, weight, {0, 0}).rows, (std::vector<int64_t>{0, 0}));
    weight.narrow(0, 1200, 300).fill(3);
    EXPECT_EQ(tops_of(x, weight, {0, 0}).rows, (std::vector<int64_t>{1200, 1200}));
  }
}

TEST(TopLogits, AreNoneWithoutRowsOrScoredTokens) {
  for (const Device device : testing::devices()) {
    const Tensor x = Tensor::full({2, 3}, 1, DType::kFloat32, device);
    EXPECT_EQ(tops_of(x, Tensor::zeros({0, 3}, DType::kFloat32, device), {0, 0}).rows, (std::vector<int64_t>{-1, -1}));
    EXPECT_EQ(tops_of(x, Tensor::zeros({4, 3}, DType::kFloat32, device), {kIgnored, kIgnored}).rows, (std::vector<int64_t>{-1, -1}));
  }
}

}  // namespace
}  // namespace ropewalk
