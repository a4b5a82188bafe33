// The attention layer and its options against their formulas.
#include "layers/attention.h"

#include "tests/layers/lone_layer.h"
#include "tests/reference/attention.h"
#include "tests/reference/rms_norm.h"
#include "tests/reference/rope.h"

namespace ropewalk {
namespace {

using testing::linear_of;
using testing::LoneLayer;

constexpr int64_t kWidth = 5, kTokens = 6;

struct Definition {
  const LoneLayer& layer;
  const AttentionBlockOptions& options;
  const NormOptions& norm;

  std::vector<double> values(const std::string& name) const { return layer.has(name) ? layer.values(name) : std::vector<double>(); }

  // Projected, biased, normalised by head, then turned.
  Tensor heads(const std::vector<double>& u, const std::string& side, int64_t count, bool positions) const {
    std::vector<double> x = linear_of(u, values("qkv." + side), kWidth, values("qkv_bias." + side));
    if (positions && options.qk_norm) {
      std::vector<double> gain = values(side + "_norm");
      for (double& g : gain) g += norm.zero_centered;
      x = reference::rms_norm(x, gain, norm.eps);
    }
    const Shape shape{1, kTokens, count, options.head_dim};
    if (positions && options.rope) turn(x, count);
    return Tensor::from(shape, x);
  }

  // The first channels of each head as heads of their own.
  void turn(std::vector<double>& x, int64_t count) const {
    const auto width = static_cast<size_t>(options.head_dim), turned = static_cast<size_t>(options.rope->fraction * double(width));
    std::vector<double> front;
    std::vector<int64_t> position(kTokens);
    for (size_t i = 0; i < x.size(); ++i)
      if (i % width < turned) front.push_back(x[i]);
    for (size_t t = 0; t < position.size(); ++t) position[t] = static_cast<int64_t>(t);
    front = reference::rope(front, position, static_cast<size_t>(count), turned, options.rope->theta);
    size_t next = 0;
    for (size_t i = 0; i < x.size(); ++i)
      if (i % width < turned) x[i] = front[next++];
  }

  std::vector<double> operator()(const std::vector<double>& u) const {
    Tensor k = heads(u, "k", options.kv_heads, true);
    for (int64_t i = 0; i < k.numel(); ++i) k.data<double>()[i] *= options.key_scale;
    reference::AttentionTokens tokens;
    for (int64_t t = 0; t < kTokens; ++t) tokens.push_back({.document = 0, .position = t});
    const reference::Attention attention{.q = heads(u, "q", options.heads, true),
                                         .k = k,
                                         .v = heads(u, "v", options.kv_heads, false),
                                         .queries = tokens,
                                         .keys = tokens,
                                         .scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(options.head_dim))),
                                         .window = options.window};
    std::vector<double> y = attention.y().to_vector<double>();
    if (options.output_gate == AttentionBlockOptions::kSigmoid) {
      const auto gate = linear_of(u, values("qkv.gate"), kWidth);
      for (size_t i = 0; i < y.size(); ++i) y[i] /= 1 + std::exp(-gate[i]);
    }
    return linear_of(y, values("out_proj"), options.heads * options.head_dim, values("out_bias"));
  }
};

std::vector<AttentionBlockOptions> all_options() {
  const AttentionBlockOptions plain{.heads = 4, .kv_heads = 2, .head_dim = 6, .rope = RopeOptions{}};
  AttentionBlockOptions normed = plain, gated = plain, biased = plain, some = plain, scaled = plain, all = plain;
  normed.qk_norm = true;
  gated.output_gate = AttentionBlockOptions::kSigmoid;
  biased.bias = {.q = true, .k = true, .v = true, .out = true};
  some.bias = {.q = false, .k = false, .v = true, .out = true};
  some.rope.reset();
  scaled.scale = 0.7;
  scaled.key_scale = 0.3;
  all = biased;
  all.rope = RopeOptions{.theta = 50, .fraction = 2.0 / 3};
  all.window = 4;
  all.qk_norm = true;
  all.output_gate = AttentionBlockOptions::kSigmoid;
  all.key_scale = 1.5;
  return {plain, normed, gated, biased, some, scaled, all};
}

TEST(AttentionLayer, EqualsItsDefinition) {
  const Tensor u = testing::random_tensor({1, kTokens, kWidth}, 1);
  for (const bool zero_centered : {false, true})
    for (const AttentionBlockOptions& options : all_options()) {
      const BuildContext build{.input = kWidth, .output = 3, .norm = {.eps = 1e-2, .zero_centered = zero_centered}};
      const LoneLayer layer(std::make_unique<Attention>(options, build, KeyValueSharing{}, TensorParallel{}));
      const Definition definition{layer, options, build.norm};
      EXPECT_TENSOR_NEAR(layer(u), Tensor::from({1, kTokens, 3}, definition(u.to_vector<double>())), 1e-12);
    }
}

TEST(AttentionLayer, HasThoseBiasesThatWereAskedFor) {
  AttentionBlockOptions options{.heads = 2, .kv_heads = 1, .head_dim = 4, .rope = {}};
  options.bias = {.q = true, .k = false, .v = true, .out = false};
  const LoneLayer layer(
      std::make_unique<Attention>(options, BuildContext{.input = kWidth, .output = kWidth}, KeyValueSharing{}, TensorParallel{}));
  EXPECT_EQ(layer.part("qkv_bias.q").shape(), Shape{8});
  EXPECT_EQ(layer.part("qkv_bias.v").shape(), Shape{4});
  EXPECT_FALSE(layer.has("qkv_bias.k") || layer.has("out_bias"));
}

}  // namespace
}  // namespace ropewalk
