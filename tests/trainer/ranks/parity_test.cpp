// A layout changes nothing but speed: each tiny model on every mesh against itself on one rank, in fp64. Runs on four ranks; smaller meshes
// are cut from them.
#include "tests/support/parity.h"

#include <gtest/gtest.h>

#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"

namespace ropewalk {
namespace {

struct Case {
  std::string name;
  Degrees degrees;
  int pieces = 1, rows = 1;  // of a sequence on a rank; of a microbatch
  bool sequence = true;
  Recompute recompute = Recompute::kNone;
  int zero = 0;
  bool expert_tensor = false;
  PipelineSchedule schedule = PipelineSchedule::k1F1B;
  int chunks = 1;             // of a pipeline rank
  std::vector<int> stages{};  // cut by hand
  int64_t batch = 4;
};

using testing::Outcome;

Outcome train(const Options& options, const Group& group, const Case& layout) {
  Options local = options;
  local.parallel.context_runs = layout.pieces;
  local.parallel.sequence = layout.sequence;
  local.parallel.zero = layout.zero;
  local.parallel.expert_tensor = layout.expert_tensor;
  local.train.recompute = layout.recompute;
  local.train.batch = layout.batch;
  local.train.micro_batch = layout.rows;
  local.parallel.pipeline = layout.degrees.pipeline;
  local.parallel.schedule = layout.schedule;
  local.parallel.virtual_stages = layout.chunks;
  local.parallel.stages = layout.stages;
  return testing::train_for_parity(local, group, layout.degrees);
}

void expect_equal(const Outcome& given, const Outcome& expected) {
  const testing::Difference largest = testing::largest_difference(given, expected);
  EXPECT_LT(largest.error, testing::kParityTolerance) << largest.of;
}

std::vector<Case> cases_of_one_rank() {
  return {
      {.name = "Recompute", .degrees = {}, .recompute = Recompute::kFull},
      {.name = "ZeroBubble", .degrees = {}, .schedule = PipelineSchedule::kZeroBubble},
      {.name = "RecomputeZeroBubble", .degrees = {}, .recompute = Recompute::kFull, .schedule = PipelineSchedule::kZeroBubble},
      {.name = "TwoRowsAMicrobatch", .degrees = {}, .rows = 2},
      {.name = "TwoPiecesOnOneRank", .degrees = {}, .pieces = 2},
  };
}

// Context with one and two runs a rank, tensor with and without sequence; each with and without recompute, and with the
// weights' gradients at once and later.
void add_options_of(const std::string& name, const Degrees& degrees, std::vector<Case>& cases) {
  for (const int pieces : {1, 2}) {
    if (pieces == 2 && degrees.context == 1) continue;
    for (const bool sequence : {true, false}) {
      if (!sequence && degrees.tensor == 1) continue;
      for (const bool recompute : {false, true})
        for (const auto schedule : {PipelineSchedule::k1F1B, PipelineSchedule::kZeroBubble})
          cases.push_back({.name = name + (pieces == 2 ? "TwoRuns" : "") + (sequence ? "" : "WholeSequence") +
                                   (recompute ? "Recompute" : "") + (schedule == PipelineSchedule::kZeroBubble ? "ZeroBubble" : ""),
                           .degrees = degrees,
                           .pieces = pieces,
                           .sequence = sequence,
                           .recompute = recompute ? Recompute::kFull : Recompute::kNone,
                           .schedule = schedule});
    }
  }
}

// Stages in turns, by themselves and with what else a mesh may have; microbatches fewer than stages, more, and no multiple of them.
std::vector<Case> scheduled_layouts(const testing::TinyModel& model) {
  std::vector<Case> cases;
  int sub_layers = 0;
  for (const auto& layer : model.model.layers) sub_layers += static_cast<int>(layer.size());
  const auto add = [&](Case layout) {
    if (layout.chunks > 1) layout.schedule = PipelineSchedule::kInterleaved;
    const Degrees& degrees = layout.degrees;
    if (degrees.pipeline * layout.chunks <= sub_layers) cases.push_back(std::move(layout));
  };
  add({.name = "Pipeline2Interleaved2", .degrees = {.pipeline = 2}, .chunks = 2});
  add({.name = "Pipeline2Interleaved3Recompute", .degrees = {.pipeline = 2}, .recompute = Recompute::kFull, .chunks = 3});
  add({.name = "Pipeline2Interleaved4", .degrees = {.pipeline = 2}, .chunks = 4});
  add({.name = "Pipeline4Interleaved2", .degrees = {.pipeline = 4}, .chunks = 2});
  add({.name = "Pipeline4Interleaved2TwoMicrobatches", .degrees = {.pipeline = 4}, .rows = 2, .chunks = 2});
  add({.name = "Pipeline4Interleaved2FiveMicrobatches", .degrees = {.pipeline = 4}, .chunks = 2, .batch = 5});
  // Here a rank would mistake a gradient for an activation, did they not come by groups of their own.
  add({.name = "Pipeline2Interleaved2FiveMicrobatches", .degrees = {.pipeline = 2}, .chunks = 2, .batch = 5});
  add({.name = "Pipeline4FiveMicrobatches", .degrees = {.pipeline = 4}, .batch = 5});
  add({.name = "Pipeline4ZeroBubbleFiveMicrobatches", .degrees = {.pipeline = 4}, .schedule = PipelineSchedule::kZeroBubble, .batch = 5});
  add({.name = "Pipeline4ZeroBubbleTwoMicrobatches", .degrees = {.pipeline = 4}, .rows = 2, .schedule = PipelineSchedule::kZeroBubble});
  add({.name = "Pipeline2Data2Interleaved3", .degrees = {.pipeline = 2, .data = 2}, .zero = 1, .chunks = 3, .batch = 6});
  add({.name = "Pipeline2Context2TwoRunsInterleaved2", .degrees = {.pipeline = 2, .context = 2}, .pieces = 2, .chunks = 2});
  add({.name = "Pipeline2Tensor2Interleaved2", .degrees = {.pipeline = 2, .tensor = 2}, .chunks = 2});
  add({.name = "Pipeline2ByHand", .degrees = {.pipeline = 2}, .stages = {1, sub_layers - 1}});
  add({.name = "Pipeline2Interleaved2ByHand", .degrees = {.pipeline = 2}, .chunks = 2, .stages = {2, 1, 1, sub_layers - 4}});
  return cases;
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
  for (const int zero : {1, 2, 3}) {
    const std::pair<const char*, Degrees> meshes[] = {{"Data2", {.data = 2}},
                                                      {"Data4", {.data = 4}},
                                                      {"Context2", {.context = 2}},
                                                      {"Data2Context2", {.data = 2, .context = 2}},
                                                      {"Pipeline2Data2", {.pipeline = 2, .data = 2}},
                                                      {"Pipeline4", {.pipeline = 4}},
                                                      {"Data2Tensor2", {.data = 2, .tensor = 2}}};
    for (const auto& [name, degrees] : meshes) {
      cases.push_back({.name = fmt::format("{}Zero{}", name, zero), .degrees = degrees, .zero = zero});
      cases.push_back({.name = fmt::format("{}Zero{}RecomputeZeroBubble", name, zero),
                       .degrees = degrees,
                       .recompute = Recompute::kFull,
                       .zero = zero,
                       .schedule = PipelineSchedule::kZeroBubble});
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
    for (const Case& layout : scheduled_layouts(model)) all.emplace_back(model, layout);
    if (model.name == "Experts")
      for (const Case& layout : expert_layouts()) all.emplace_back(model, layout);
  }
  return all;
}

class Parity : public ::testing::TestWithParam<ModelAndCase> {
 protected:
  static const Outcome& one_rank(const testing::TinyModel& model, OptimizerOptions::Type type, int64_t batch) {
    static std::map<std::tuple<std::string, OptimizerOptions::Type, int64_t>, Outcome> known;
    auto [place, fresh] = known.try_emplace({model.name, type, batch});
    if (fresh) place->second = train(options(model, type), Group(), {.name = "one rank", .degrees = {}, .batch = batch});
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
    if (member) expect_equal(train(options(model, type), group, layout), one_rank(model, type, layout.batch));
  }
};

TEST_P(Parity, SgdEqualsOneRank) { compare(OptimizerOptions::kSgd); }
TEST_P(Parity, AdamWEqualsOneRank) { compare(OptimizerOptions::kAdamW); }

INSTANTIATE_TEST_SUITE_P(Layouts, Parity, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.first.name + info.param.second.name; });

}  // namespace
}  // namespace ropewalk
