// What layers and optimizer say of themselves.
#include "layers/health.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/finite_difference.h"
#include "tests/support/parameters.h"
#include "tests/support/tiny_model.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

TEST(Health, IsTheRangeOfStepSizesAndDecaysAndTheSizeOfStates) {
  SsmHealth health;
  const Tensor dt = Tensor::from<double>({2, 2, 2}, {-1, 0, 2, 1, 100, 100, 100, 100});  // the second row is no sample
  const Tensor bias = Tensor::from<double>({2}, {0.5, -0.5}), a_log = Tensor::from<double>({2}, {0, std::log(3.0)});
  observe_scan(health, dt, bias, a_log, Tensor::from<double>({2, 1}, {3, 4}));
  const auto softplus = [](double x) { return std::log(1 + std::exp(x)); };
  EXPECT_NEAR(health.dt_min, softplus(-0.5), 1e-15);
  EXPECT_NEAR(health.dt_max, softplus(2.5), 1e-15);
  EXPECT_NEAR(health.decay_min, std::exp(-3 * softplus(0.5)), 1e-15);
  EXPECT_NEAR(health.decay_max, std::exp(-softplus(-0.5)), 1e-15);
  EXPECT_EQ(health.state_squares, 25);
  EXPECT_EQ(health.state_count, 2);
}

class TinyRun : public ::testing::Test {
 protected:
  StepReport step(const RecomputePolicy& recompute, Health* health) {
    Options options = testing::tiny_options();
    options.train.recompute = recompute;
    model_.emplace(options, Group(), Degrees{});
    optimizer_.emplace(options.optimizer, model_->declarations(), model_->store(), 10);
    before_ = testing::masters(model_->store()).to_vector<double>();
    const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
    return TrainStep(*model_, *optimizer_, {.clip = 1.0})
        .run(0, make_batches(sequence, 0, {options.train.batch, 1, 1}, model_->mesh()), health);
  }

  std::optional<RankModel> model_;
  std::optional<Optimizer> optimizer_;
  std::vector<double> before_;
};

TEST_F(TinyRun, AsksEveryScanOnceHoweverOftenItRuns) {
  Health plain, replayed;
  step(Recompute::kNone, &plain);
  step(Recompute::kFull, &replayed);
  const SsmHealth &expected = plain.of("mamba2"), &given = replayed.of("mamba2");
  EXPECT_GT(expected.state_count, 0);
  EXPECT_EQ(given.state_count, expected.state_count);
  EXPECT_EQ(given.dt_max, expected.dt_max);
  EXPECT_GT(expected.decay_max, expected.decay_min);
  EXPECT_EQ(plain.of("mamba1").state_count, 0);
}

TEST_F(TinyRun, RecomputesByKindToTheSameWeights) {
  const StepReport none = step(Recompute::kNone, nullptr);
  const Tensor weights = testing::masters(model_->store());
  for (const auto& kinds : {std::set<std::string>{"mamba2"}, {"attention", "mlp"}, {"parallel"}}) {
    EXPECT_EQ(step(RecomputePolicy(kinds), nullptr).loss, none.loss);
    EXPECT_TENSOR_NEAR(testing::masters(model_->store()), weights, 1e-10);
  }
}

TEST_F(TinyRun, SaysHowFarTheUpdateWentByKind) {
  step(Recompute::kNone, nullptr);
  const auto after = testing::masters(model_->store()).to_vector<double>();
  std::map<Kind, UpdateSquares> expected;
  for (const PlacedPart& part : model_->store().parts())
    for (int64_t i = part.owned_at; i < part.owned_at + part.numel(); ++i) {
      expected[part.spec.kind].update += (after[i] - before_[i]) * (after[i] - before_[i]);
      expected[part.spec.kind].weight += after[i] * after[i];
    }
  ASSERT_EQ(optimizer_->last_update().size(), expected.size());
  for (const auto& [kind, squares] : optimizer_->last_update()) {
    EXPECT_GT(squares.update, 0) << name_of(kind);
    EXPECT_NEAR(squares.update, expected[kind].update, 1e-12 * expected[kind].update) << name_of(kind);
    EXPECT_NEAR(squares.weight, expected[kind].weight, 1e-12 * expected[kind].weight) << name_of(kind);
  }
}

}  // namespace
}  // namespace ropewalk
