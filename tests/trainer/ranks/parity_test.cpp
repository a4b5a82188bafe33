// A layout changes nothing but speed: each tiny model on every mesh against itself on one rank, in fp64. Runs on four ranks; smaller meshes
// are cut from them.
#include <gtest/gtest.h>

#include "tests/support/finite_difference.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

constexpr double kTolerance = 1e-10;
constexpr int64_t kSteps = 3;

struct Case {
  std::string name;
  Degrees degrees;
  int pieces = 1, rows = 1;  // of a sequence on a rank; of a microbatch
  bool sequence = true;
  Recompute recompute = Recompute::kNone;
  bool defer = false;
  int zero = 0;
  bool expert_tensor = false;
};

// Global tensors by name: what this mesh computed, the same on each of its ranks.
using Gathered = std::map<std::string, Tensor>;

struct Outcome {
  std::vector<double> losses, grad_norms, of_experts;  // of_experts: auxiliary loss and load
  Gathered gradients, weights;
};

Gathered gather(const RankModel& rank_model, Tensor (ParameterStore::*of)(const PlacedPart&) const) {
  Gathered all;
  const ParameterStore& store = rank_model.store();
  for (const auto& fused : rank_model.declarations().all()) {
    for (const ParameterSpec& spec : fused->parts) {
      const Tensor whole = Tensor::zeros(spec.shape, store.wide_dtype());
      for (const PlacedPart& part : store.parts()) {
        if (part.spec.name != spec.name || !part.counted || part.owned.length == 0) continue;
        Tensor place = whole;
        for (int d = 0; d < spec.shape.rank(); ++d) place = place.narrow(d, part.start[d], part.extent[d]);
        const Tensor local = Tensor::zeros({part.numel()}, store.wide_dtype());
        local.narrow(0, part.owned.begin, part.owned.length).copy_from((store.*of)(part));
        place.copy_from(local.reshape(part.extent));
      }
      all[spec.name] = rank_model.mesh().all().all_reduce(whole, "gather");
    }
  }
  return all;
}

Outcome train(const Options& options, const Group& group, const Case& layout) {
  Options local = options;
  local.parallel.context_runs = layout.pieces;
  local.parallel.sequence = layout.sequence;
  local.parallel.zero = layout.zero;
  local.parallel.expert_tensor = layout.expert_tensor;
  local.train.recompute = layout.recompute;
  const RankModel model(local, group, layout.degrees);
  Optimizer optimizer(local.optimizer, model.declarations(), model.store(), kSteps);
  TrainStep train_step(model, optimizer, {.clip = local.train.clip, .defer_weight_parts = layout.defer});
  const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, local.data.seq_len, local.model.vocabulary); };
  Outcome outcome;
  for (int64_t step = 0; step < kSteps; ++step) {
    const StepReport report =
        train_step.run(step, make_batches(sequence, step, {local.train.batch, layout.rows, layout.pieces}, model.mesh()));
    outcome.losses.push_back(report.loss);
    outcome.grad_norms.push_back(report.grad_norm);
    if (report.moe) outcome.of_experts.insert(outcome.of_experts.end(), {report.moe->aux_loss, report.moe->load_max_over_mean});
    if (step == 0) outcome.gradients = gather(model, &ParameterStore::grad);
  }
  outcome.weights = gather(model, &ParameterStore::master);
  for (const PlacedBuffer& placed : model.store().buffers()) outcome.weights[placed.buffer->name] = placed.buffer->value;
  return outcome;
}

void expect_equal(const Gathered& given, const Gathered& expected, const char* what) {
  ASSERT_EQ(given.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    EXPECT_GT(testing::relative_error(tensor, zeros_like(tensor), 1), 0) << what << " of " << name << " is zero: nothing was compared";
    EXPECT_LT(testing::relative_error(given.at(name), tensor), kTolerance) << what << " of " << name;
  }
}

void expect_equal(const Outcome& given, const Outcome& expected) {
  for (int64_t step = 0; step < kSteps; ++step) {
    EXPECT_NEAR(given.losses[step], expected.losses[step], kTolerance * expected.losses[step]) << "loss of step " << step;
    EXPECT_NEAR(given.grad_norms[step], expected.grad_norms[step], kTolerance * expected.grad_norms[step])
        << "gradient norm of step " << step;
  }
  ASSERT_EQ(given.of_experts.size(), expected.of_experts.size());
  for (size_t i = 0; i < expected.of_experts.size(); ++i)
    EXPECT_NEAR(given.of_experts[i], expected.of_experts[i], kTolerance * expected.of_experts[i]) << "of the experts, number " << i;
  expect_equal(given.gradients, expected.gradients, "gradient");
  expect_equal(given.weights, expected.weights, "weight after three steps");
}

std::vector<Case> cases_of_one_rank() {
  return {
      {.name = "Recompute", .degrees = {}, .recompute = Recompute::kFull},
      {.name = "Deferred", .degrees = {}, .defer = true},
      {.name = "RecomputeDeferred", .degrees = {}, .recompute = Recompute::kFull, .defer = true},
      {.name = "TwoRowsAMicrobatch", .degrees = {}, .rows = 2},
      {.name = "TwoPiecesOnOneRank", .degrees = {}, .pieces = 2},
  };
}

// Context with one and two runs a rank, tensor with and without sequence; each with and without recompute and deferred weight gradients.
void add_options_of(const std::string& name, const Degrees& degrees, std::vector<Case>& cases) {
  for (const int pieces : {1, 2}) {
    if (pieces == 2 && degrees.context == 1) continue;
    for (const bool sequence : {true, false}) {
      if (!sequence && degrees.tensor == 1) continue;
      for (const bool recompute : {false, true})
        for (const bool defer : {false, true})
          cases.push_back({.name = name + (pieces == 2 ? "TwoRuns" : "") + (sequence ? "" : "WholeSequence") +
                                   (recompute ? "Recompute" : "") + (defer ? "Deferred" : ""),
                           .degrees = degrees,
                           .pieces = pieces,
                           .sequence = sequence,
                           .recompute = recompute ? Recompute::kFull : Recompute::kNone,
                           .defer = defer});
    }
  }
}

// Every axis alone with 2 and 4 ranks, every pair with 2 x 2.
std::vector<Case> all_layouts() {
  std::vector<Case> cases = cases_of_one_rank();
  const std::pair<const char*, Degrees> meshes[] = {
      {"Pipeline2", {.pipeline = 2}},
      {"Pipeline4", {.pipeline = 4}},
      {"Tensor2", {.tensor = 2}},
      {"Tensor4", {.tensor = 4}},
      {"Context2", {.context = 2}},
      {"Context4", {.context = 4}},
      {"Data2", {.data = 2}},
      {"Data4", {.data = 4}},
      {"Pipeline2Data2", {.pipeline = 2, .data = 2}},
      {"Pipeline2Context2", {.pipeline = 2, .context = 2}},
      {"Pipeline2Tensor2", {.pipeline = 2, .tensor = 2}},
      {"Data2Context2", {.data = 2, .context = 2}},
      {"Data2Tensor2", {.data = 2, .tensor = 2}},
      {"Context2Tensor2", {.context = 2, .tensor = 2}},
  };
  for (const auto& [name, degrees] : meshes) add_options_of(name, degrees, cases);
  return cases;
}

// What ranks with the same weights share out, on meshes where that meets tensor copies, parameters of several stages, and context ranks.
std::vector<Case> sharded_layouts() {
  std::vector<Case> cases;
  for (const int zero : {1, 2}) {
    const std::pair<const char*, Degrees> meshes[] = {{"Data2", {.data = 2}},
                                                      {"Data4", {.data = 4}},
                                                      {"Context2", {.context = 2}},
                                                      {"Data2Context2", {.data = 2, .context = 2}},
                                                      {"Pipeline2Data2", {.pipeline = 2, .data = 2}},
                                                      {"Pipeline4", {.pipeline = 4}},
                                                      {"Data2Tensor2", {.data = 2, .tensor = 2}}};
    for (const auto& [name, degrees] : meshes) {
      cases.push_back({.name = fmt::format("{}Zero{}", name, zero), .degrees = degrees, .zero = zero});
      cases.push_back({.name = fmt::format("{}Zero{}RecomputeDeferred", name, zero),
                       .degrees = degrees,
                       .recompute = Recompute::kFull,
                       .defer = true,
                       .zero = zero});
    }
  }
  return cases;
}

// Experts over data, context and both; with tensor ranks that cut the sequence, that do not, and that cut the experts.
std::vector<Case> expert_layouts() {
  std::vector<Case> cases;
  const std::pair<const char*, Degrees> meshes[] = {{"Expert2", {.data = 2, .expert = 2}},
                                                    {"Expert2OfContext2", {.context = 2, .expert = 2}},
                                                    {"Expert2OfData4", {.data = 4, .expert = 2}},
                                                    {"Expert4", {.data = 4, .expert = 4}},
                                                    {"Expert4OfContext2", {.data = 2, .context = 2, .expert = 4}},
                                                    {"Pipeline2Expert2", {.pipeline = 2, .data = 2, .expert = 2}}};
  for (const auto& [name, degrees] : meshes)
    for (const Recompute recompute : {Recompute::kNone, Recompute::kFull})
      cases.push_back({.name = fmt::format("{}{}", name, recompute == Recompute::kFull ? "RecomputeZero1" : ""),
                       .degrees = degrees,
                       .recompute = recompute,
                       .zero = recompute == Recompute::kFull ? 1 : 0});
  for (const bool sequence : {true, false})
    for (const bool expert_tensor : {true, false}) {
      const std::string options = fmt::format("{}{}", sequence ? "" : "WholeSequence", expert_tensor ? "ExpertTensor" : "");
      cases.push_back({.name = "Expert2Tensor2" + options,
                       .degrees = {.data = 2, .tensor = 2, .expert = 2},
                       .sequence = sequence,
                       .zero = 1,
                       .expert_tensor = expert_tensor});
      if (expert_tensor)
        cases.push_back({.name = "Tensor4" + options, .degrees = {.tensor = 4}, .sequence = sequence, .expert_tensor = true});
    }
  return cases;
}

using ModelAndCase = std::pair<testing::TinyModel, Case>;

std::vector<ModelAndCase> all_cases() {
  std::vector<ModelAndCase> all;
  for (const testing::TinyModel& model : testing::tiny_models()) {
    for (const Case& layout : all_layouts()) all.emplace_back(model, layout);
    for (const Case& layout : sharded_layouts()) all.emplace_back(model, layout);
    if (model.name == "Experts")
      for (const Case& layout : expert_layouts()) all.emplace_back(model, layout);
  }
  return all;
}

class Parity : public ::testing::TestWithParam<ModelAndCase> {
 protected:
  static const Outcome& one_rank(const testing::TinyModel& model, OptimizerOptions::Type type) {
    static std::map<std::pair<std::string, OptimizerOptions::Type>, Outcome> known;
    auto [place, fresh] = known.try_emplace({model.name, type});
    if (fresh) place->second = train(options(model, type), Group(), {.name = "one rank", .degrees = {}});
    return place->second;
  }
  static Options options(const testing::TinyModel& model, OptimizerOptions::Type type) {
    Options tiny = testing::tiny_options(model);
    tiny.optimizer.type = type;
    if (type == OptimizerOptions::kSgd) tiny.optimizer.values.lr = 0.5;
    return tiny;
  }
  static void compare(OptimizerOptions::Type type) {
    const auto& [model, layout] = GetParam();
    const bool member = testing::world().rank() < layout.degrees.ranks();
    const Group group = testing::world().split(member ? 1 : 0);
    if (member) expect_equal(train(options(model, type), group, layout), one_rank(model, type));
  }
};

TEST_P(Parity, SgdEqualsOneRank) { compare(OptimizerOptions::kSgd); }
TEST_P(Parity, AdamWEqualsOneRank) { compare(OptimizerOptions::kAdamW); }

INSTANTIATE_TEST_SUITE_P(Layouts, Parity, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.first.name + info.param.second.name; });

}  // namespace
}  // namespace ropewalk
