#include "trainer/op_times.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/tiny_model.h"
#include "trainer/trace_file.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

TimeSpan span(TimeSpan::Kind kind, std::string_view name, int64_t begin, int64_t end, const Effort& effort = {}) {
  return {.kind = kind, .name = name, .begin = begin, .end = end, .effort = effort};
}

// A phase of 100 ns: an op with a kernel and a wait, a rule that replays an op, and an optimizer's kernel. By their ends, as recorded.
Timeline a_step() {
  Timeline timeline;
  timeline.add(span(TimeSpan::kKernel, "MatMul", 15, 25, {.flops = 7, .bytes = 5}));
  timeline.add(span(TimeSpan::kWait, "tp_enter", 25, 28));
  timeline.add(span(TimeSpan::kForward, "linear", 10, 30, {.bytes = 11}));
  timeline.add(span(TimeSpan::kTransfer, "gradients", 5, 55));
  timeline.add(span(TimeSpan::kForward, "linear", 40, 45));
  timeline.add(span(TimeSpan::kBackward, "segment", 40, 60));
  timeline.add(span(TimeSpan::kKernel, "AdamWStep", 70, 90, {.flops = 2, .bytes = 3}));
  timeline.add(span(TimeSpan::kPhase, "optimizer", 65, 95));
  timeline.add(span(TimeSpan::kPhase, "step", 0, 100));
  return timeline;
}

TEST(OpTimes, CountEveryInstantOnceForTheInnermost) {
  const std::vector<OpTime> ops = op_times(a_step());
  std::map<std::string, OpTime> by_name;
  double total = 0;
  for (const OpTime& op : ops) {
    by_name[op.name] = op;
    total += op.seconds;
  }
  EXPECT_NEAR(total, 100e-9, 1e-18);
  EXPECT_NEAR(by_name["linear"].seconds, 22e-9, 1e-18);
  EXPECT_NEAR(by_name["wait: tp_enter"].seconds, 3e-9, 1e-18);
  EXPECT_NEAR(by_name["segment.backward"].seconds, 15e-9, 1e-18);
  EXPECT_NEAR(by_name["optimizer"].seconds, 30e-9, 1e-18);
  EXPECT_NEAR(by_name["step"].seconds, 30e-9, 1e-18);
  EXPECT_EQ(by_name.size(), 5u);
  EXPECT_EQ(by_name["linear"].calls, 2);
  EXPECT_EQ(by_name["linear"].effort.flops, 7);
  EXPECT_EQ(by_name["linear"].effort.bytes, 11);
  EXPECT_EQ(by_name["optimizer"].effort.bytes, 3);
  EXPECT_EQ(ops.front().seconds, std::max(by_name["optimizer"].seconds, by_name["step"].seconds));
}

TEST(ChromeTrace, HoldsEverySpanInMicroseconds) {
  const auto trace = nlohmann::json::parse(chrome_trace(a_step(), 3));
  const auto& events = trace["traceEvents"];
  ASSERT_EQ(events.size(), 1 + 9 + 1u);  // the rank's name; a transfer is two
  const auto find = [&](const std::string& name) {
    for (const auto& event : events)
      if (event["name"] == name) return event;
    return nlohmann::json();
  };
  EXPECT_EQ(find("MatMul")["ph"], "X");
  EXPECT_EQ(find("MatMul")["ts"], 0.015);
  EXPECT_EQ(find("MatMul")["dur"], 0.01);
  EXPECT_EQ(find("MatMul")["pid"], 3);
  EXPECT_EQ(find("MatMul")["args"]["flops"], 7);
  EXPECT_EQ(find("segment.backward")["cat"], "backward");
  EXPECT_EQ(find("gradients")["ph"], "b");
}

// A step of the tiny models, as the tables and the trace see it.
TEST(OpTimes, OfAStepAddUpToTheStep) {
  const Options options = testing::tiny_options();
  const RankModel model(options, Group(), {});
  Optimizer optimizer(options.optimizer, model.declarations(), model.store(), 10);
  TrainStep train_step(model, optimizer, {.clip = 1.0});
  const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
  Timeline timeline;
  {
    const Recording recording(timeline);
    const Phase step("step");
    train_step.run(0, make_batches(sequence, 0, {options.train.batch, 1, 1}, model.mesh()));
  }
  double total = 0;
  std::vector<std::string> names;
  for (const OpTime& op : op_times(timeline)) {
    total += op.seconds;
    names.push_back(op.name);
    EXPECT_GE(op.seconds, 0) << op.name;
  }
  const TimeSpan& whole = timeline.spans().back();
  EXPECT_NEAR(total, static_cast<double>(whole.end - whole.begin) * 1e-9, 1e-9);
  for (const char* name :
       {"linear", "linear.backward", "ssd_chunk_outputs", "attention.backward", "optimizer", "gradient norms", "batches"})
    EXPECT_THAT(names, ::testing::Contains(name));
}

TEST(PlaceTimes, LeaveOutWaitsForOtherStages) {
  Timeline timeline;
  const Recording recording(timeline);
  {
    const ModelPlace head("head");
    timeline.add(span(TimeSpan::kWait, "pipeline.backward", 2, 6));
    timeline.add(span(TimeSpan::kWait, "tp_leave", 7, 8));
    timeline.add(span(TimeSpan::kBackward, "linear", 0, 10));
  }
  timeline.add(span(TimeSpan::kPhase, "backward", 0, 15));
  const auto times = place_times(timeline);
  EXPECT_NEAR(times.at("head"), 6e-9, 1e-18);
  EXPECT_NEAR(times.at(""), 9e-9, 1e-18);
}

// Rules and put-off weight gradients are of the place whose op recorded them, replays of the place that is replayed.
TEST(PlaceTimes, AreOfForwardBackwardAndWeightsAtEveryPlace) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
    Options options = testing::tiny_options();
    options.train.recompute = recompute;
    options.parallel.schedule = PipelineSchedule::kZeroBubble;
    const RankModel model(options, Group(), {});
    const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options.data.seq_len, options.model.vocabulary); };
    Timeline timeline;
    {
      const Recording recording(timeline);
      Pipeline(model.model(), model.mesh(), model.pipeline_options())
          .forward_backward(make_batches(sequence, 0, {options.train.batch, 1, 1}, model.mesh()), {});
    }
    std::map<std::string, std::set<std::string>> phases;  // of each place
    for (const TimeSpan& phase : timeline.spans())
      for (const TimeSpan& inner : timeline.spans())
        if (phase.kind == TimeSpan::kPhase && inner.begin >= phase.begin && inner.end <= phase.end)
          phases[std::string(inner.place)].insert(std::string(phase.name));
    for (const std::string& place : model.model().places()) {
      EXPECT_GT(place_times(timeline)[place], 0) << place;
      const bool puts_off = place != "embedding" && place != "head";
      EXPECT_EQ(phases[place].size(), puts_off ? 3u : 2u) << place;
    }
  }
}

}  // namespace
}  // namespace ropewalk
