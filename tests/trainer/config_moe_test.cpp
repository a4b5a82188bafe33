#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::mistake;
using testing::parse;
using testing::small_with;

// kSmall with a block of experts in the place of its MLP.
std::string with_moe(const std::string& keys) { return small_with("{ffn: mlp, hidden: 128}", "{ffn: moe, " + keys + "}"); }
MoeOptions moe(const std::string& keys) { return std::get<MoeOptions>(parse(with_moe(keys)).options.model.blocks.at("F")); }

TEST(MoeBlock, HasTheContractsDefaults) {
  const MoeOptions expected{.experts = 8, .hidden = 64, .router = {.top_k = 2}};
  EXPECT_EQ(moe("experts: 8, top_k: 2, hidden: 64, router: softmax_topk"), expected);
  EXPECT_EQ(expected.balance, 0);
  EXPECT_FALSE(expected.router.renorm);
}

TEST(MoeBlock, ReadsEveryRouter) {
  using enum RouterType;
  EXPECT_EQ(
      moe("experts: 8, top_k: 2, hidden: 64, router: softmax_topk, renorm: true, scale: 1.5, balance: 0.01, z: 0.001, act: gelu, gated: "
          "false, router_bias: true, shared: {hidden: 32, gate: sigmoid}"),
      (MoeOptions{.experts = 8,
                  .hidden = 64,
                  .act = Activation::kGelu,
                  .gated = false,
                  .router = {.type = kSoftmaxTopk, .top_k = 2, .renorm = true, .scale = 1.5},
                  .router_bias = true,
                  .balance = 0.01,
                  .z = 0.001,
                  .shared = SharedExpertOptions{.hidden = 32, .gated = true}}));
  EXPECT_EQ(
      moe("experts: 8, top_k: 3, hidden: 64, router: topk_softmax, shared: {hidden: 32}"),
      (MoeOptions{.experts = 8, .hidden = 64, .router = {.type = kTopkSoftmax, .top_k = 3}, .shared = SharedExpertOptions{.hidden = 32}}));
  EXPECT_EQ(
      moe("experts: 8, top_k: 4, hidden: 64, router: sigmoid_bias, groups: 4, top_groups: 2, bias_update: 0.01, shared: null"),
      (MoeOptions{
          .experts = 8, .hidden = 64, .router = {.type = kSigmoidBias, .top_k = 4, .groups = 4, .top_groups = 2}, .bias_update = 0.01}));
  EXPECT_EQ(moe("experts: 8, hidden: 64, router: sigmoid_top1, sinkhorn: 4"),
            (MoeOptions{.experts = 8, .hidden = 64, .router = {.type = kSigmoidTop1}, .sinkhorn = 4}));
}

TEST(MoeBlock, ResolvesToWhatItReads) {
  for (const char* keys :
       {"experts: 8, top_k: 2, hidden: 64, router: softmax_topk, shared: {hidden: 32}",
        "experts: 8, top_k: 2, hidden: 64, router: sigmoid_bias, groups: 2", "experts: 8, hidden: 64, router: sigmoid_top1"}) {
    const Config config = parse(with_moe(keys));
    EXPECT_EQ(parse(config.resolved).options, config.options);
  }
}

TEST(MoeBlock, RefusesWhatDoesNotFit) {
  const auto message = [](const std::string& keys) {
    const std::string text = mistake([&] { parse(with_moe(keys)); }), place = "configs/x.yaml:6: model.blocks.F.";
    EXPECT_EQ(text.substr(0, place.size()), place);
    return text.substr(std::min(text.size(), place.size()));
  };
  EXPECT_EQ(message("experts: 4, top_k: 5, hidden: 8, router: softmax_topk"), "top_k: expected at most experts (4), given 5");
  EXPECT_EQ(message("experts: 4, top_k: 2, hidden: 8, router: sigmoid_top1"), "top_k: expected 1 with router sigmoid_top1, given 2");
  EXPECT_EQ(message("experts: 4, hidden: 8, router: topk_softmax"), "top_k: required, not given");
  EXPECT_EQ(message("experts: 8, top_k: 2, hidden: 8, router: sigmoid_bias, groups: 3"),
            "groups: expected a divisor of experts (8), given 3");
  EXPECT_EQ(message("experts: 8, top_k: 2, hidden: 8, router: sigmoid_bias, groups: 2, top_groups: 3"),
            "top_groups: expected at most groups (2), given 3");
  EXPECT_EQ(message("experts: 8, top_k: 3, hidden: 8, router: sigmoid_bias, groups: 4, top_groups: 1"),
            "top_groups: expected enough groups of 2 experts for top_k (3), given 1");
  EXPECT_EQ(message("experts: 8, top_k: 3, hidden: 8, router: topk_softmax, renorm: true"), "renorm: only router softmax_topk has it");
  EXPECT_EQ(message("experts: 8, top_k: 3, hidden: 8, router: topk_softmax, bias_update: 0.1"),
            "bias_update: only router sigmoid_bias has it");
  EXPECT_EQ(message("experts: 8, top_k: 3, hidden: 8, router: topk_softmax, sinkhorn: 2"), "sinkhorn: only router sigmoid_top1 has it");
  EXPECT_EQ(message("experts: 8, top_k: 3, hidden: 8, router: topk_softmax, expert: 2"), "expert: unknown key; did you mean experts?");
  EXPECT_EQ(message("experts: 8, top_k: 3, hidden: 8, router: topk_softmax, shared: {gate: sigmoid}"),
            "shared.hidden: required, not given");
}

TEST(MoeBlock, IsCutOverTensorRanksWhereItsSharedExpertIs) {
  const auto resolve = [](const std::string& shared, const std::string& parallel) {
    const std::string text = with_moe("experts: 3, top_k: 2, hidden: 65, router: softmax_topk" + shared);
    return mistake([&] { resolve_mesh(parse(text, {"parallel=" + parallel}), 4); });
  };
  EXPECT_EQ(resolve("", "{tensor: 2}"), "no mistake");
  EXPECT_EQ(resolve(", shared: {hidden: 64}", "{tensor: 2}"), "no mistake");
  EXPECT_EQ(resolve(", shared: {hidden: 65}", "{tensor: 2}"),
            "command line: parallel.tensor: expected a divisor of model.blocks.F.shared.hidden (65, configs/x.yaml:6), given 2; try 1");
  EXPECT_EQ(resolve(", shared: {hidden: 65}", "{context: 2, pipeline: 2}"), "no mistake");
}

TEST(MoeBlock, FallsIntoOptimizerGroupsByKindAndRole) {
  const Config config =
      parse(with_moe("experts: 8, top_k: 2, hidden: 64, router: softmax_topk"),
            {"optimizer.groups=[{name: routers, match: {role: router}, lr: 1e-4}, {name: experts, match: {kind: moe}, lr: 2e-4}]"});
  EXPECT_EQ(config.options.optimizer.groups[0].roles, std::vector<Role>{Role::kRouter});
  EXPECT_EQ(config.options.optimizer.groups[1].kinds, std::vector<Kind>{Kind::kMoe});
}

}  // namespace
}  // namespace ropewalk
