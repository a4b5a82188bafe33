// A model with mixtures of experts as training sees it: its objective, the balance of its routers, what is counted and what is not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/finite_difference.h"
#include "tests/support/parameters.h"
#include "tests/support/tiny_model.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

using testing::random_tensor;

const testing::TinyModel& experts() {
  const auto& models = testing::tiny_models();
  return *std::find_if(models.begin(), models.end(), [](const auto& model) { return model.name == "Experts"; });
}

// One layer of experts between embedding and head.
Options one_layer(const MoeOptions& moe) {
  Options options = testing::tiny_options(experts());
  options.model.blocks = {{"E", moe}};
  options.model.layers = {{"E"}};
  return options;
}

std::vector<Microbatch> batches(const Options& options, const Mesh& mesh, bool scored = true) {
  const auto sequence = [&](int64_t i) {
    Sequence row = testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary);
    if (!scored) std::fill(row.targets.begin(), row.targets.end(), Sequence::kIgnored);
    return row;
  };
  return make_batches(sequence, 0, {options.train.batch, options.train.micro_batch, 1}, mesh);
}

struct Training {
  explicit Training(Options given)
      : options(std::move(given)),
        model(options, Group(), {}),
        optimizer(options.optimizer, model.declarations(), model.store(), 10),
        train_step(model, optimizer, {.clip = options.train.clip}) {}

  StepReport step(bool scored = true) { return train_step.run(0, batches(options, model.mesh(), scored)); }
  std::vector<double> bias() const { return model.store().buffers().at(0).buffer->value.to_vector<double>(); }
  std::vector<double> load() const { return model.declarations().tallies().at(0)->counts.to_vector<double>(); }
  Tensor master(const std::string& name) const {
    for (const PlacedPart& part : model.store().parts())
      if (part.spec.name == name) return model.store().master(part);
    throw std::runtime_error("no parameter " + name);
  }

  Options options;
  RankModel model;
  Optimizer optimizer;
  TrainStep train_step;
};

TEST(ExpertsObjective, HasTheGradientOfItsDifferences) {
  const Options options = testing::tiny_options(experts());
  const RankModel model(options, Group(), {});
  const Pipeline pipeline(model.model(), model.mesh(), model.pipeline_options());
  const auto batch = batches(options, model.mesh());
  const LossScales scales{.target = 0.01, .sequence = 0.25};
  const auto objective = [&] {
    const LossSums sums = pipeline.forward_backward(batch, scales);
    return scales.target * sums.cross_entropy + scales.sequence * sums.auxiliary;
  };
  objective();
  const Tensor gradient = testing::gradients(model.store()), centre = testing::masters(model.store());
  constexpr double kStep = 1e-6;
  for (const PlacedPart& part : model.store().parts()) {
    const Tensor direction = random_tensor({part.numel()}, 5), values = model.store().master(part);
    const auto moved = [&](double step) {
      const auto from = ParameterStore::span(centre, part).to_vector<double>(), along = direction.to_vector<double>();
      for (size_t i = 0; i < from.size(); ++i) values.data<double>()[i] = from[i] + step * along[i];
      const double result = objective();
      values.copy_from(ParameterStore::span(centre, part));
      return result;
    };
    const auto g = ParameterStore::span(gradient, part).to_vector<double>(), along = direction.to_vector<double>();
    double slope = 0, terms = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      slope += g[i] * along[i];
      terms += std::abs(g[i] * along[i]);
    }
    EXPECT_GT(terms, 0) << part.spec.name;
    EXPECT_NEAR((moved(kStep) - moved(-kStep)) / (2 * kStep), slope, 1e-6 * terms + 1e-9) << part.spec.name;
  }
}

TEST(ExpertsObjective, AddsAMeanOverSequencesWhateverIsScored) {
  const MoeOptions moe{.experts = 4, .hidden = 5, .router = {.top_k = 2}, .balance = 0.5, .z = 0.1};
  Options pairs = one_layer(moe);
  pairs.train.micro_batch = 2;
  const double all = Training(one_layer(moe)).step().moe->aux_loss;
  EXPECT_GT(all, 0.5);  // balance is at its least where all is even
  EXPECT_NEAR(Training(one_layer(moe)).step(false).moe->aux_loss, all, 1e-14);
  EXPECT_NEAR(Training(pairs).step().moe->aux_loss, all, 1e-14);
}

TEST(ExpertsObjective, ReportsAnEvenLoadAsOne) {
  EXPECT_EQ(Training(one_layer({.experts = 3, .hidden = 5, .router = {.top_k = 3}})).step().moe->load_max_over_mean, 1);
  EXPECT_GT(Training(one_layer({.experts = 3, .hidden = 5, .router = {.top_k = 1}})).step().moe->load_max_over_mean, 1);
  EXPECT_FALSE(Training(testing::tiny_options()).step().moe);
}

MoeOptions balanced() {
  return {.experts = 4, .hidden = 5, .router = {.type = RouterType::kSigmoidBias, .top_k = 2}, .bias_update = 0.125};
}

TEST(BalanceBias, MovesTowardsTheMeanLoadOnceAStep) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
    Options options = one_layer(balanced());
    options.train.recompute = recompute;
    Training run(options);
    run.step();
    const auto load = run.load(), bias = run.bias();
    double sum = 0;
    for (const double count : load) sum += count;
    EXPECT_EQ(sum, static_cast<double>(4 * options.data.seq_len * 2));  // rows x tokens x top_k, also with a replay
    for (size_t e = 0; e < 4; ++e) EXPECT_EQ(bias[e], load[e] < sum / 4 ? 0.125 : load[e] > sum / 4 ? -0.125 : 0) << load[e];
  }
}

TEST(BalanceBias, EvensTheLoad) {
  Options options = one_layer(balanced());
  options.optimizer.values.lr = 0;
  auto& moe = std::get<MoeOptions>(options.model.blocks["E"]);
  moe.router_bias = true;
  moe.bias_update = 0.02;
  Training run(options);
  run.master("layers.0.moe.router_bias").narrow(0, 0, 1).fill(3);  // expert 0 is everybody's first
  const double before = run.step().moe->load_max_over_mean;
  for (int i = 0; i < 60; ++i) run.step();
  EXPECT_GT(before, 1.9);
  EXPECT_LT(run.step().moe->load_max_over_mean, 1.3);
}

TEST(BalanceBias, StaysWhereAStepIsSkippedOrOnlyEvaluated) {
  Training run(one_layer(balanced()));
  const Pipeline pipeline(run.model.model(), run.model.mesh(), run.model.pipeline_options());
  pipeline.forward(batches(run.options, run.model.mesh()));
  EXPECT_EQ(run.load(), std::vector<double>(4, 0));
  run.step();
  const auto bias = run.bias();
  run.master("embedding").narrow(0, 0, 1).fill(INFINITY);
  EXPECT_TRUE(run.step().skipped);
  EXPECT_EQ(run.bias(), bias);
}

TEST(Router, StaysFp32UnderBf16) {
  Options options = testing::tiny_options(experts());
  options.train.precision = Precision::kBf16;
  const RankModel model(options, Group(), {});
  int routers = 0;
  for (const PlacedPart& part : model.store().parts()) {
    if (part.spec.role != Role::kRouter && part.spec.role != Role::kRouterBias) continue;
    ++routers;
    EXPECT_FALSE(model.store().working(part)) << part.spec.name << " is read rounded";
  }
  EXPECT_EQ(routers, 6);  // five blocks, one with a bias
}

TEST(Experts, TrainInBf16) {
  Options narrow = testing::tiny_options(experts()), wide = narrow;
  narrow.train.precision = Precision::kBf16;
  Training run(narrow), exact(wide);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(run.step().loss, exact.step().loss, 0.02);
}

// Sinkhorn's assignment looks at later tokens, so it must not decide where a loss is only measured.
TEST(SinkhornRouter, IsCausalInEvaluation) {
  const Options options = one_layer({.experts = 3, .hidden = 5, .router = {.type = RouterType::kSigmoidTop1}});
  const RankModel model(options, Group(), {});
  const Pipeline pipeline(model.model(), model.mesh(), model.pipeline_options());
  const auto nats = [&](int64_t last) {
    Sequence row = testing::tiny_sequence(0, 32, options.model.vocabulary);
    std::fill(row.targets.begin() + 16, row.targets.end(), Sequence::kIgnored);
    std::fill(row.tokens.begin() + 16, row.tokens.end(), last);
    return std::vector{make_microbatch({row}, model.mesh(), 1, 0)};
  };
  EXPECT_EQ(pipeline.forward(nats(1)), pipeline.forward(nats(2)));
  const LossScales scales{};
  EXPECT_NE(pipeline.forward_backward(nats(1), scales).cross_entropy, pipeline.forward_backward(nats(2), scales).cross_entropy);
}

}  // namespace
}  // namespace ropewalk
