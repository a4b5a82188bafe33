#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::kSmall;
using testing::mistake;
using testing::parse;
using testing::small_with;

constexpr const char* kParallel = "data:\n";

Config with_parallel(const std::string& parallel, const std::vector<std::string>& overrides = {}) {
  return parse(small_with(kParallel, "parallel: {" + parallel + "}\ndata:\n"), overrides);
}

TEST(ResolveMesh, GivesDataWhatTheOtherDegreesLeave) {
  const auto data = [](const std::string& parallel, int ranks) { return resolve_mesh(with_parallel(parallel), ranks).data; };
  EXPECT_EQ(data("", 1), 1);
  EXPECT_EQ(data("", 8), 8);
  EXPECT_EQ(data("tensor: 2", 8), 4);
  EXPECT_EQ(data("data: null, tensor: 2, context: 2, pipeline: 2", 8), 1);
  EXPECT_EQ(data("data: 2, tensor: 2", 4), 2);
  const Degrees degrees = resolve_mesh(with_parallel("tensor: 2, context: 4, pipeline: 3"), 48);
  EXPECT_EQ(degrees.pipeline, 3);
  EXPECT_EQ(degrees.context, 4);
  EXPECT_EQ(degrees.tensor, 2);
  EXPECT_EQ(degrees.ranks(), 48);
  EXPECT_EQ(resolve_mesh(with_parallel("context: 2, expert: 4"), 4).expert,
            4);  // over data x context; a model without experts has nothing to cut
}

TEST(ResolveMesh, ReplicatesGroupsAndKeyValueHeads) {
  const std::vector<std::string> overrides = {"model.blocks.M.groups=2", "model.blocks.A.kv_heads=1"};
  EXPECT_EQ(resolve_mesh(with_parallel("tensor: 4", overrides), 4).tensor, 4);
}

TEST(ResolveMesh, RefusesSizesThatDoNotDivide) {
  const auto message = [](const std::string& parallel, int ranks, const std::vector<std::string>& overrides = {}) {
    const std::string text = mistake([&] { resolve_mesh(with_parallel(parallel, overrides), ranks); }),
                      place = "configs/x.yaml:14: parallel";
    EXPECT_EQ(text.substr(0, place.size()), place);
    return text.substr(std::min(text.size(), place.size()));
  };
  EXPECT_EQ(message("tensor: 3", 8), ".tensor: expected a divisor of model.blocks.A.heads (4, line 5), given 3; try 1, 2 or 4");
  EXPECT_EQ(message("tensor: 8", 8), ".tensor: expected a divisor of model.blocks.A.heads (4, line 5), given 8; try 1, 2 or 4");
  EXPECT_EQ(message("tensor: 8", 8, {"model.blocks.A.heads=8", "model.blocks.M.heads=4"}),
            ".tensor: expected a divisor of model.blocks.M.heads (4, command line), given 8; try 1, 2 or 4");
  EXPECT_EQ(message("tensor: 4", 4, {"model.blocks.A.heads=12", "model.blocks.A.kv_heads=6", "model.blocks.A.head_dim=8"}),
            ".tensor: expected a divisor or a multiple of model.blocks.A.kv_heads (6, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("tensor: 4", 4, {"model.blocks.M.heads=12", "model.blocks.M.groups=6"}),
            ".tensor: expected a divisor or a multiple of model.blocks.M.groups (6, command line), given 4; try 1 or 2");
  const std::string moe = "model.blocks.F={ffn: moe, router: softmax_topk, experts: 6, top_k: 2, hidden: 6}";
  EXPECT_EQ(message("expert: 3", 8), ".expert: expected a divisor of data x parallel.context (8, by default), given 3; try 1, 2, 4 or 8");
  EXPECT_EQ(message("expert: 4", 4, {moe}), ".expert: expected a divisor of model.blocks.F.experts (6, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("tensor: 4, expert_tensor: true", 4, {moe}),
            ".tensor: expected a divisor of model.blocks.F.hidden (6, command line), given 4; try 1 or 2");
  EXPECT_EQ(
      message("tensor: 4", 4, {"model.blocks.F={ffn: moe, router: softmax_topk, experts: 6, top_k: 2, hidden: 6, shared: {hidden: 10}}"}),
      ".tensor: expected a divisor of model.blocks.F.shared.hidden (10, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("tensor: 3", 3,
                    {"model.blocks.A={mixer: attention, heads: 3, head_dim: 8}", "model.blocks.M={mixer: mamba1, expand: 1}",
                     "model.blocks.F.hidden=129"}),
            ".tensor: expected a divisor of model.blocks.M.expand x model.d_model (64, command line), given 3; try 1");
  EXPECT_EQ(message("tensor: 4", 4, {"model.d_model=96", "model.blocks.M={mixer: mamba1, expand: 2, heads: 6}"}),
            ".tensor: expected a divisor or a multiple of model.blocks.M.heads (6, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("tensor: 4", 4, {"model.blocks.F.hidden=130"}),
            ".tensor: expected a divisor of model.blocks.F.hidden (130, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("tensor: 4", 4, {"data.seq_len=126"}),
            ".tensor: expected a divisor of data.seq_len (126, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("tensor: 4, context: 2", 8, {"data.seq_len=12"}),
            ".tensor: expected a divisor of data.seq_len / parallel.context (6, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("context: 3", 6), ".context: expected a divisor of data.seq_len (128, line 17), given 3; try 1 or 2");
  EXPECT_EQ(message("context: 4, context_runs: 2", 4, {"data.seq_len=12"}),
            ".context: expected a divisor of data.seq_len / parallel.context_runs (6, command line), given 4; try 1 or 2");
  EXPECT_EQ(message("context_runs: 3", 4), ".context_runs: expected a divisor of data.seq_len (128, line 17), given 3; try 1, 2 or 4");
  EXPECT_EQ(message("pipeline: 7", 7), ".pipeline: expected at most 6 stages (a sub-layer of model.layout each, line 8), given 7");
  EXPECT_EQ(
      message("pipeline: 4, virtual_stages: 2", 4),
      ".virtual_stages: expected at most 6 stages (a sub-layer of model.layout each, line 8), given pipeline 4 x virtual_stages 2 = 8");
  EXPECT_EQ(message("tensor: 2", 3),
            ": expected degrees whose product divides the number of ranks (3), given pipeline 1 x context 1 x tensor 2 = 2");
  EXPECT_EQ(message("tensor: 2", 1),
            ": expected degrees whose product divides the number of ranks (1), given pipeline 1 x context 1 x tensor 2 = 2");
  EXPECT_EQ(message("data: 3, tensor: 2", 8), ".data: expected 4 (8 ranks / pipeline 1 x context 1 x tensor 2), given 3");
}

TEST(ResolveMesh, TakesAnyScheduleThatItsStagesAllow) {
  const auto parallel = [](const std::string& given) { return with_parallel(given).options.parallel; };
  EXPECT_EQ(parallel("pipeline: 2").schedule, PipelineSchedule::k1F1B);
  EXPECT_EQ(parallel("pipeline: 2, schedule: zero_bubble").schedule, PipelineSchedule::kZeroBubble);
  EXPECT_EQ(parallel("pipeline: 2, virtual_stages: 2").schedule, PipelineSchedule::kInterleaved);
  EXPECT_EQ(parallel("pipeline: 2, virtual_stages: 2").chunks(), 2);
  EXPECT_EQ(parallel("virtual_stages: 2").chunks(), 1);
  EXPECT_EQ(parallel("pipeline: 2, stages: [4, 2]").stages, (std::vector<int>{4, 2}));
  EXPECT_EQ(resolve_mesh(with_parallel("virtual_stages: 9, stages: [6]"), 1).pipeline, 1);
  EXPECT_EQ(resolve_mesh(with_parallel("pipeline: 3, virtual_stages: 2, stages: [1, 1, 1, 1, 1, 1]"), 3).pipeline, 3);
}

TEST(ResolveMesh, RefusesSchedulesAndStagesThatDoNotFit) {
  const auto message = [](const std::string& parallel, const std::vector<std::string>& overrides = {}) {
    const std::string text = mistake([&] { resolve_mesh(with_parallel(parallel, overrides), 2); }), place = "configs/x.yaml:14: parallel";
    EXPECT_EQ(text.substr(0, place.size()), place);
    return text.substr(std::min(text.size(), place.size()));
  };
  EXPECT_EQ(message("pipeline: 2, schedule: interleaved"),
            ".schedule: interleaved needs parallel.virtual_stages of 2 or more, given 1 (by default)");
  EXPECT_EQ(message("pipeline: 2, schedule: interleaved, virtual_stages: 1"),
            ".schedule: interleaved needs parallel.virtual_stages of 2 or more, given 1 (line 14)");
  EXPECT_EQ(message("pipeline: 2, schedule: zero_bubble, virtual_stages: 2"),
            ".virtual_stages: expected 1 with parallel.schedule zero_bubble (line 14), given 2; or use interleaved");
  EXPECT_EQ(message("pipeline: 2, stages: [2, 2, 2]"), ".stages: expected a number a stage (pipeline 2 x virtual_stages 1 = 2), given 3");
  EXPECT_EQ(message("pipeline: 2, virtual_stages: 2, stages: [3, 3]"),
            ".stages: expected a number a stage (pipeline 2 x virtual_stages 2 = 4), given 2");
  EXPECT_EQ(message("pipeline: 2, stages: [2, 3]"),
            ".stages: expected numbers that sum to 6 (sub-layers of model.layout, line 8), given 5");
  EXPECT_EQ(message("pipeline: 2, stages: [6, 0]"), ".stages.1: expected a positive integer, given 0");
  EXPECT_EQ(message("pipeline: 2, schedule: gpipe"), ".schedule: expected 1f1b, interleaved or zero_bubble, given gpipe");
}

TEST(ResolveMesh, IgnoresBlocksThatNoLayerUses) {
  EXPECT_EQ(resolve_mesh(with_parallel("tensor: 8", {"model.layout.pattern=MFMF"}), 8).tensor, 8);  // A has 4 heads
  EXPECT_EQ(mistake([] { resolve_mesh(with_parallel("tensor: 8", {"model.layout.pattern=HF"}), 8); }),
            "configs/x.yaml:14: parallel.tensor: expected a divisor of model.blocks.A.heads (4, line 5), given 8; try 1, 2 or 4");
}

TEST(ResolveMesh, CutsTheSequenceOverTensorOnlyWhereAsked) {
  EXPECT_EQ(resolve_mesh(with_parallel("tensor: 4, sequence: false", {"data.seq_len=126"}), 4).tensor, 4);
}

TEST(ResolveMesh, RefusesABatchThatTheRanksCannotShare) {
  const auto message = [](const std::vector<std::string>& overrides, int ranks) {
    return mistake([&] { resolve_mesh(parse(kSmall, overrides), ranks); });
  };
  EXPECT_EQ(message({"train.micro_batch=4"}, 2), "no mistake");
  EXPECT_EQ(message({}, 3),
            "configs/x.yaml:17: train.batch: expected a multiple of 3 (data 3 x train.micro_batch 1, by default), given 8; try 6 or 9");
  EXPECT_EQ(message({"train.micro_batch=8"}, 2),
            "configs/x.yaml:17: train.batch: expected a multiple of 16 (data 2 x train.micro_batch 8, command line), given 8; try 16");
}

TEST(ResolveMesh, NeedsNeitherSequencesNorABatchToCutAModel) {
  const std::string text = kSmall.substr(0, kSmall.find("optimizer:"));
  EXPECT_EQ(resolve_mesh(parse(text, {"parallel.tensor=2"}), 6).data, 3);
}

}  // namespace
}  // namespace ropewalk
