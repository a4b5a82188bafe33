// The Mamba-2 mixer and its options against their formulas.
#include "layers/mamba2.h"

#include "tests/layers/lone_layer.h"
#include "tests/reference/causal_conv1d.h"
#include "tests/reference/gated_rms_norm.h"
#include "tests/reference/ssd.h"

namespace ropewalk {
namespace {

using testing::linear_of;
using testing::LoneLayer;

constexpr int64_t kWidth = 5, kTokens = 7;
constexpr double kEps = 1e-2;

using Values = std::vector<double>;

struct Definition {
  const LoneLayer& layer;
  const Mamba2Options& options;

  Values segment(const Values& u, const std::string& name, double factor) const {
    Values x = linear_of(u, layer.values("in_proj." + name), kWidth);
    for (double& value : x) value *= factor;
    return x;
  }

  Values convolved(const Values& x, const std::string& name) const {
    const Values bias = layer.values("conv_bias." + name);
    return reference::causal_conv1d_silu(x, layer.values("conv." + name), bias, {}, {{.length = kTokens}}, kTokens,
                                         static_cast<int64_t>(bias.size()), options.conv);
  }

  Values gated(const Values& y, const Values& z) const {
    const size_t groups = options.gate_norm.group == GateNormOptions::kAll ? 1 : static_cast<size_t>(options.groups);
    if (options.gate_norm.order != GateNormOptions::kNone)
      return reference::gated_rms_norm(y, z, layer.values("norm"), groups, kEps, options.gate_norm.order == GateNormOptions::kNormFirst);
    Values out;
    for (size_t i = 0; i < y.size(); ++i) out.push_back(y[i] * z[i] / (1 + std::exp(-z[i])));
    return out;
  }

  Values operator()(const Values& u) const {
    const auto m = options.multipliers.value_or(std::array<double, 5>{1, 1, 1, 1, 1});
    const auto limit = options.dt_limit.value_or(std::array{0.0, 1e300});
    const reference::Ssd ssd{kTokens,
                             options.heads,
                             options.head_dim,
                             options.groups,
                             options.state,
                             convolved(segment(u, "x", m[1]), "x"),
                             segment(u, "dt", m[4]),
                             convolved(segment(u, "B", m[2]), "B"),
                             convolved(segment(u, "C", m[3]), "C"),
                             layer.values("A_log"),
                             layer.values("dt_bias"),
                             layer.values("D"),
                             limit[0],
                             limit[1]};
    const Values y = ssd.scan({{.length = kTokens}}, {}).y;
    return linear_of(gated(y, segment(u, "z", m[0])), layer.values("out_proj"), options.heads * options.head_dim);
  }
};

std::vector<Mamba2Options> all_options() {
  const Mamba2Options plain{.heads = 4, .head_dim = 3, .state = 2, .groups = 2, .conv = 3, .chunk = 4};
  std::vector<Mamba2Options> all = {plain};
  for (const auto order : {GateNormOptions::kGateFirst, GateNormOptions::kNormFirst, GateNormOptions::kNone})
    for (const auto group : {GateNormOptions::kPerGroup, GateNormOptions::kAll}) {
      all.push_back(plain);
      all.back().gate_norm = {.order = order, .group = group};
    }
  all.push_back(plain);
  all.back().multipliers = {0.5, 2, 0.75, 1.5, 0.25};
  all.push_back(plain);
  all.back().dt_limit = {0.6, 0.8};
  return all;
}

TEST(Mamba2Layer, EqualsItsDefinition) {
  const Tensor u = testing::random_tensor({1, kTokens, kWidth}, 1);
  for (const Mamba2Options& options : all_options()) {
    const BuildContext build{.input = kWidth, .output = 3, .norm = {.eps = kEps}};
    const LoneLayer layer(std::make_unique<Mamba2>(options, build, TensorParallel{}));
    EXPECT_TENSOR_NEAR(layer(u), Tensor::from({1, kTokens, 3}, Definition{layer, options}(u.to_vector<double>())), 1e-12);
  }
}

}  // namespace
}  // namespace ropewalk
