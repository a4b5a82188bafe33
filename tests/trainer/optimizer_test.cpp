#include "trainer/optimizer.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"
#include "trainer/rank_model.h"

namespace ropewalk {
namespace {

const ParameterSpec& spec(const Declarations& declarations, const std::string& name) {
  for (const auto& fused : declarations.all())
    for (const ParameterSpec& part : fused->parts)
      if (part.name == name) return part;
  throw std::runtime_error("no parameter " + name);
}

class Groups : public ::testing::Test {
 protected:
  Groups() : options_(testing::tiny_options()), model_(options_, Group(), {}) {
    options_.optimizer.values.lr = 1;
    options_.optimizer.values.weight_decay = 0.1;
  }
  void add(const std::string& name, std::vector<Kind> kinds, std::vector<Role> roles, OptimizerValues values) {
    options_.optimizer.groups.push_back({.name = name, .kinds = std::move(kinds), .roles = std::move(roles), .values = values});
  }
  std::string group_of(const std::string& parameter) const {
    const ParameterGroups groups(options_.optimizer, model_.declarations());
    return groups.groups()[groups.group_of(spec(model_.declarations(), parameter))].name;
  }

  Options options_;
  RankModel model_;
};

TEST_F(Groups, TakeTheFirstMatchByKindAndRole) {
  add("dynamics", {}, {Role::kALog, Role::kD, Role::kDtBias}, {});
  add("ssm", {Kind::kSsm}, {}, {});
  add("ssm_or_attention", {Kind::kSsm, Kind::kAttention}, {}, {});
  EXPECT_EQ(group_of("layers.0.mamba2.A_log"), "dynamics");
  EXPECT_EQ(group_of("layers.0.mamba2.in_proj.x"), "ssm");
  EXPECT_EQ(group_of("layers.4.parallel.1.mamba2.in_proj.x"), "ssm");
  EXPECT_EQ(group_of("layers.1.attention.qkv.q"), "ssm_or_attention");
  EXPECT_EQ(group_of("layers.2.mlp.down"), "default");
  EXPECT_EQ(group_of("embedding"), "default");
}

TEST_F(Groups, RefuseAGroupThatMatchesNothing) {
  add("ssm", {Kind::kSsm}, {}, {});
  add("dynamics", {}, {Role::kALog}, {});
  EXPECT_THROW(group_of("embedding"), Error);
}

TEST_F(Groups, DecayWeightsOnlyUnlessTheGroupSaysSo) {
  OptimizerValues own{.lr = 1, .weight_decay = 0.3, .decay_all = true, .schedule = {}};
  add("dynamics", {}, {Role::kALog}, own);
  const ParameterGroups groups(options_.optimizer, model_.declarations());
  const auto decay = [&](const std::string& name) { return groups.weight_decay(spec(model_.declarations(), name)); };
  EXPECT_EQ(decay("layers.0.mamba2.in_proj.z"), 0.1);
  EXPECT_EQ(decay("layers.0.mamba2.conv.x"), 0.1);
  EXPECT_EQ(decay("layers.0.mamba2.conv_bias.x"), 0);
  EXPECT_EQ(decay("layers.0.mamba2.D"), 0);
  EXPECT_EQ(decay("final_norm"), 0);
  EXPECT_EQ(decay("layers.0.mamba2.A_log"), 0.3);
}

TEST_F(Groups, EachFollowsItsOwnSchedule) {
  OptimizerValues falling{.lr = 2, .schedule = {.type = ScheduleOptions::kCosine}}, constant{.lr = 3, .schedule = {}};
  add("ssm", {Kind::kSsm}, {}, falling);
  add("attention", {Kind::kAttention}, {}, constant);
  const Optimizer optimizer(options_.optimizer, model_.declarations(), model_.store(), 100);
  EXPECT_DOUBLE_EQ(optimizer.lr(0, 0), 2);
  EXPECT_DOUBLE_EQ(optimizer.lr(0, 50), 1);
  EXPECT_DOUBLE_EQ(optimizer.lr(1, 50), 3);
  EXPECT_DOUBLE_EQ(optimizer.lr(2, 50), 1);
}

}  // namespace
}  // namespace ropewalk
