// Parallel mixers against their branches run alone and combined by formula.
#include "layers/parallel_mixers.h"

#include "layers/mamba2.h"
#include "layers/mlp.h"
#include "tests/layers/lone_layer.h"
#include "tests/reference/rms_norm.h"

namespace ropewalk {
namespace {

using testing::linear_of;
using testing::LoneLayer;

constexpr int64_t kWidth = 4, kTokens = 3;
const BuildContext kBuild{.input = kWidth, .output = kWidth, .norm = {.eps = 1e-2, .zero_centered = true}};

using Values = std::vector<double>;

std::unique_ptr<SubLayer> branch(size_t i) {
  if (i == 0) return std::make_unique<Mamba2>(Mamba2Options{.heads = 2, .head_dim = 2, .state = 2}, kBuild, TensorParallel{});
  return std::make_unique<Mlp>(MlpOptions{.hidden = 4 + static_cast<int64_t>(i)}, kBuild, TensorParallel{});
}

struct Pair {
  ParallelOptions options;
  size_t count;
  LoneLayer together;

  Pair(Combine combine, size_t branches, const Values& in_scales = {}, const Values& out_scales = {})
      : options{.branches = {}, .combine = combine, .in_scales = in_scales, .out_scales = out_scales},
        count(branches),
        together(std::make_unique<ParallelMixers>(options, kBuild, make(branches))) {}

  static std::vector<std::unique_ptr<SubLayer>> make(size_t branches) {
    std::vector<std::unique_ptr<SubLayer>> all;
    for (size_t i = 0; i < branches; ++i) all.push_back(branch(i));
    return all;
  }

  // Branch i alone, with the parameters that it has in the pair.
  Values output(size_t i, const Tensor& u) const {
    const LoneLayer alone(branch(i));
    for (const auto& [name, tensor] : alone.parts())
      tensor.copy_from(together.part(fmt::format("{}.{}.{}", i, i == 0 ? "mamba2" : "mlp", name.substr(2))));
    Values scaled = u.to_vector<double>();
    for (double& x : scaled) x *= options.in_scales.empty() ? 1 : options.in_scales[i];
    return alone(Tensor::from(u.shape(), scaled)).to_vector<double>();
  }

  std::vector<Values> outputs(const Tensor& u) const {
    std::vector<Values> all;
    for (size_t i = 0; i < count; ++i) all.push_back(output(i, u));
    return all;
  }
};

Tensor input() { return testing::random_tensor({1, kTokens, kWidth}, 1); }

void expect_equal(const Tensor& given, const Values& expected) { EXPECT_TENSOR_NEAR(given, Tensor::from(given.shape(), expected), 1e-12); }

TEST(ParallelMixers, SumAndMeanScaleWhatGoesInAndOut) {
  for (const auto& [combine, divisor] : {std::pair{Combine::kSum, 1.0}, {Combine::kMean, 2.0}}) {
    const Pair pair(combine, 2, {0.5, 2}, {3, 0.25});
    const auto y = pair.outputs(input());
    Values expected;
    for (size_t i = 0; i < y[0].size(); ++i) expected.push_back((3 * y[0][i] + 0.25 * y[1][i]) / divisor);
    expect_equal(pair.together(input()), expected);
  }
}

TEST(ParallelMixers, NormedMeanNormalisesEachBranch) {
  const Pair pair(Combine::kNormedMean, 2);
  auto y = pair.outputs(input());
  for (size_t k = 0; k < 2; ++k) {
    Values gain = pair.together.values(fmt::format("{}.output_norm", k));
    for (double& g : gain) g += 1;
    y[k] = reference::rms_norm(y[k], gain, kBuild.norm.eps);
  }
  Values expected;
  for (size_t i = 0; i < y[0].size(); ++i) expected.push_back((y[0][i] + y[1][i]) / 2);
  expect_equal(pair.together(input()), expected);
}

TEST(ParallelMixers, GatedMixesByASoftmaxOfTheirInput) {
  for (const size_t count : {2, 3}) {
    const Pair pair(Combine::kGated, count, {2, 1, 0.5});
    const auto y = pair.outputs(input());
    const Values logits = linear_of(input().to_vector<double>(), pair.together.values("gate"), kWidth, pair.together.values("gate_bias"));
    Values expected;
    for (size_t i = 0; i < y[0].size(); ++i) {
      const size_t row = i / kWidth, channel = i % kWidth;
      double sum = 1, mixed = y[count - 1][i];
      for (size_t k = 0; k + 1 < count; ++k) {
        const double weight = std::exp(logits[(row * (count - 1) + k) * kWidth + channel]);
        sum += weight;
        mixed += weight * y[k][i];
      }
      expected.push_back(mixed / sum);
    }
    expect_equal(pair.together(input()), expected);
  }
}

TEST(ParallelMixers, ConcatProjProjectsAllOutputs) {
  const Pair pair(Combine::kConcatProj, 3);
  const auto y = pair.outputs(input());
  Values side_by_side;
  for (size_t row = 0; row < kTokens; ++row)
    for (const Values& values : y) side_by_side.insert(side_by_side.end(), &values[row * kWidth], &values[row * kWidth] + kWidth);
  expect_equal(pair.together(input()), linear_of(side_by_side, pair.together.values("concat_proj"), 3 * kWidth));
}

}  // namespace
}  // namespace ropewalk
