// What initial values the options ask for.
#include <gtest/gtest.h>

#include <cmath>

#include "layers/model.h"

namespace ropewalk {
namespace {

std::map<std::string, Init> inits(const InitOptions& init, const NormOptions& norm = {}) {
  ModelOptions model;
  model.d_model = 16;
  model.vocabulary = 10;
  model.init = init;
  model.norm = model.final_norm = norm;
  model.blocks["M"] = Mamba2Options{.heads = 2, .head_dim = 8, .state = 4};
  model.blocks["F"] = MlpOptions{.hidden = 64, .act = Activation::kSilu, .gated = true, .bias = true};
  model.layers = {{"M", "F"}, {"M", "F"}};
  Declarations declarations(false);
  HybridModel(model, {}).declare(declarations);
  std::map<std::string, Init> all;
  for (const auto& fused : declarations.all())
    for (const ParameterSpec& spec : fused->parts) all[spec.name] = spec.init;
  return all;
}

void expect_init(const Init& given, Init::Type type, double a, double b) {
  EXPECT_EQ(given.type, type);
  EXPECT_DOUBLE_EQ(given.a, a);
  EXPECT_DOUBLE_EQ(given.b, b);
}

TEST(Init, KaimingIsUniformByFanIn) {
  const auto all = inits({});
  expect_init(all.at("layers.0.mamba2.in_proj.x"), Init::kUniform, -0.25, 0.25);
  expect_init(all.at("layers.1.mlp.gate_up.up"), Init::kUniform, -0.25, 0.25);
  expect_init(all.at("layers.1.mlp.down"), Init::kUniform, -0.125 / 2, 0.125 / 2);  // four sub-layers
  expect_init(all.at("embedding"), Init::kNormal, 0.02, 0);
  expect_init(all.at("head"), Init::kNormal, 0.02, 0);
}

TEST(Init, NormalHasItsDeviations) {
  const auto all = inits({.weights = InitOptions::kNormal, .std = 0.5, .embedding_std = 0.25, .residual = InitOptions::kSqrtDepth});
  expect_init(all.at("layers.0.mamba2.in_proj.x"), Init::kNormal, 0.5, 0);
  expect_init(all.at("layers.0.mamba2.out_proj"), Init::kNormal, 0.25, 0);
  expect_init(all.at("layers.1.mlp.down"), Init::kNormal, 0.25, 0);
  expect_init(all.at("embedding"), Init::kNormal, 0.25, 0);
  expect_init(all.at("head"), Init::kNormal, 0.5, 0);
  expect_init(all.at("layers.0.mamba2.conv.x"), Init::kUniform, -0.5, 0.5);  // a convolution's is by its width alone
}

TEST(Init, ResidualNoneLeavesOutputProjectionsAlone) {
  const auto all = inits({.weights = InitOptions::kNormal, .std = 0.5, .embedding_std = 0.25, .residual = InitOptions::kNone});
  expect_init(all.at("layers.1.mlp.down"), Init::kNormal, 0.5, 0);
}

TEST(Init, BiasesStartAtZeroAndGainsAtOne) {
  const auto plain = inits({}), zero_centered = inits({}, {.zero_centered = true}), layer = inits({}, {.type = NormOptions::kLayer});
  expect_init(plain.at("layers.0.mlp.gate_up_bias.gate"), Init::kConstant, 0, 0);
  expect_init(plain.at("layers.0.mamba2.input_norm"), Init::kConstant, 1, 0);
  expect_init(zero_centered.at("layers.0.mamba2.input_norm"), Init::kConstant, 0, 0);
  expect_init(layer.at("layers.0.mamba2.input_norm"), Init::kConstant, 1, 0);
  expect_init(layer.at("final_norm_bias"), Init::kConstant, 0, 0);
  EXPECT_FALSE(plain.contains("final_norm_bias"));
}

}  // namespace
}  // namespace ropewalk
