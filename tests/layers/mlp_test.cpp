// The feed-forward against its formula.
#include "layers/mlp.h"

#include "tests/layers/lone_layer.h"
#include "tests/reference/activation.h"

namespace ropewalk {
namespace {

using testing::linear_of;
using testing::LoneLayer;

constexpr int64_t kWidth = 5, kTokens = 4;

std::vector<double> definition(const LoneLayer& mlp, const MlpOptions& options, const std::vector<double>& u) {
  const auto [gate_factor, down_factor] = options.multipliers.value_or(std::array{1.0, 1.0});
  const auto values = [&](const std::string& name) { return mlp.has(name) ? mlp.values(name) : std::vector<double>(); };
  std::vector<double> h;
  if (options.gated) {
    const auto gate = linear_of(u, values("gate_up.gate"), kWidth, values("gate_up_bias.gate"));
    h = linear_of(u, values("gate_up.up"), kWidth, values("gate_up_bias.up"));
    for (size_t i = 0; i < h.size(); ++i) h[i] *= reference::activation(gate_factor * gate[i], options.act);
  } else {
    h = linear_of(u, values("up"), kWidth, values("up_bias"));
    for (double& x : h) x = reference::activation(x, options.act);
  }
  std::vector<double> y = linear_of(h, values("down"), options.hidden, values("down_bias"));
  for (double& x : y) x *= down_factor;
  return y;
}

TEST(Mlp, EqualsItsDefinition) {
  const Tensor u = testing::random_tensor({1, kTokens, kWidth}, 1);
  const std::vector<MlpOptions> all = {
      {.hidden = 6},
      {.hidden = 6, .act = Activation::kGelu, .bias = true, .multipliers = {{0.5, 3}}},
      {.hidden = 7, .act = Activation::kGeluTanh, .gated = true},
      {.hidden = 6, .act = Activation::kRelu2, .gated = false},
      {.hidden = 6, .act = Activation::kSilu, .gated = false, .bias = true},
  };
  for (const MlpOptions& options : all) {
    const LoneLayer mlp(std::make_unique<Mlp>(options, BuildContext{.input = kWidth, .output = kWidth}, TensorParallel{}));
    EXPECT_EQ(mlp.has("down_bias"), options.bias);
    EXPECT_TENSOR_NEAR(mlp(u), Tensor::from(u.shape(), definition(mlp, options, u.to_vector<double>())), 1e-12);
  }
}

}  // namespace
}  // namespace ropewalk
