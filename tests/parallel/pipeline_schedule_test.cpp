#include "parallel/pipeline_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace ropewalk {
namespace {

struct Planned {
  PipelineSchedule schedule;
  PipelineShape shape;
  std::string name() const {
    return std::string(name_of(schedule)) + ": " + std::to_string(shape.ranks) + " ranks x " + std::to_string(shape.chunks) + " chunks, " +
           std::to_string(shape.microbatches) + " microbatches";
  }
};

std::vector<Planned> all_plans() {
  std::vector<Planned> plans;
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (int microbatches = 1; microbatches <= 3 * ranks + 2; ++microbatches) {
      for (const auto schedule : {PipelineSchedule::k1F1B, PipelineSchedule::kZeroBubble})
        plans.push_back({schedule, {.ranks = ranks, .chunks = 1, .microbatches = microbatches}});
      for (int chunks = 1; chunks <= 4; ++chunks)
        plans.push_back({PipelineSchedule::kInterleaved, {.ranks = ranks, .chunks = chunks, .microbatches = microbatches}});
    }
  return plans;
}

std::vector<Turns> turns_of_all(const Planned& plan) {
  std::vector<Turns> turns;
  for (int rank = 0; rank < plan.shape.ranks; ++rank) turns.push_back(turns_of(plan.schedule, plan.shape, rank));
  return turns;
}

Turns only(Turn::Part part, const Turns& turns) {
  Turns some;
  std::copy_if(turns.begin(), turns.end(), std::back_inserter(some), [&](const Turn& turn) { return turn.part == part; });
  return some;
}

TEST(PipelineSchedule, TakesEveryPartOfEveryMicrobatchOnceAndInOrder) {
  for (const Planned& plan : all_plans()) {
    SCOPED_TRACE(plan.name());
    const size_t pairs = static_cast<size_t>(plan.shape.microbatches * plan.shape.chunks);
    for (const Turns& turns : turns_of_all(plan)) {
      ASSERT_EQ(turns.size(), pairs * (plan.schedule == PipelineSchedule::kZeroBubble ? 3 : 2));
      const auto place = [&](const Turn& turn) { return std::find(turns.begin(), turns.end(), turn) - turns.begin(); };
      for (int microbatch = 0; microbatch < plan.shape.microbatches; ++microbatch)
        for (int chunk = 0; chunk < plan.shape.chunks; ++chunk) {
          const auto forward = place({Turn::kForward, microbatch, chunk}), backward = place({Turn::kBackward, microbatch, chunk}),
                     weights = place({Turn::kWeights, microbatch, chunk}), end = std::ssize(turns);
          ASSERT_LT(forward, backward);
          ASSERT_LT(backward, end);
          ASSERT_TRUE(plan.schedule != PipelineSchedule::kZeroBubble || (backward < weights && weights < end));
        }
    }
  }
}

// What lets messages do without numbers.
TEST(PipelineSchedule, HasOneOrderOfForwardsAndOneOfBackwardsOnAllRanks) {
  for (const Planned& plan : all_plans()) {
    const auto turns = turns_of_all(plan);
    for (const Turns& rank : turns) {
      ASSERT_EQ(only(Turn::kForward, rank), forward_turns(plan.shape)) << plan.name();
      ASSERT_EQ(only(Turn::kBackward, rank), only(Turn::kBackward, turns.front())) << plan.name();
    }
  }
}

TEST(PipelineSchedule, TakesAsLongAsTheFormulaSays) {
  const StageTimes several[] = {{1, 1, 1}, {2, 3, 2}, {1, 2, 2}, {5, 1, 4}, {1, 5, 0}, {3, 1, 0.5}, {1, 1, 7}};
  for (const Planned& plan : all_plans())
    for (const StageTimes& stage : several) {
      const auto simulated = simulate(turns_of_all(plan), std::vector<StageTimes>(static_cast<size_t>(plan.shape.stages()), stage));
      ASSERT_TRUE(simulated) << plan.name() << ": turns wait for each other";
      ASSERT_NEAR(simulated->makespan, makespan_of_equal_stages(plan.schedule, plan.shape, stage), 1e-9) << plan.name();
      ASSERT_NEAR(simulated->bubble, bubble_of_equal_stages(plan.schedule, plan.shape, stage), 1e-12) << plan.name();
    }
}

TEST(PipelineSchedule, HasTheBubbleOfItsPaper) {
  const StageTimes equal{1, 1, 1};
  const double one = bubble_of_equal_stages(PipelineSchedule::k1F1B, {.ranks = 4, .microbatches = 8}, equal);
  EXPECT_NEAR(one, 3.0 / 11, 1e-12);
  EXPECT_NEAR(bubble_of_equal_stages(PipelineSchedule::kInterleaved, {.ranks = 4, .chunks = 3, .microbatches = 8}, equal), 3.0 / 27, 1e-12);
  EXPECT_NEAR(bubble_of_equal_stages(PipelineSchedule::kZeroBubble, {.ranks = 4, .microbatches = 8}, equal), 1.0 / 9, 1e-12);
}

TEST(PipelineSchedule, KeepsInFlightWhatItPromises) {
  for (const Planned& plan : all_plans()) {
    const auto& [ranks, chunks, microbatches] = plan.shape;
    const int groups = std::max(1, microbatches / ranks), group = (microbatches + groups - 1) / groups;
    for (int rank = 0; rank < ranks; ++rank) {
      int promised = std::min(microbatches, ranks - rank);
      if (plan.schedule == PipelineSchedule::kZeroBubble) promised = std::min(microbatches, ranks);  // what the first rank has in 1f1b
      if (chunks > 1) promised = std::min(microbatches * chunks, (chunks - 1) * group + 2 * (ranks - 1 - rank) + 1);
      ASSERT_EQ(most_in_flight(turns_of(plan.schedule, plan.shape, rank)), promised) << plan.name() << ", rank " << rank;
    }
  }
}

TEST(PipelineSchedule, EndsWithStagesOfAnyTimes) {
  for (const Planned& plan : all_plans()) {
    std::vector<StageTimes> times;
    double longest_rank = 0;
    for (int stage = 0; stage < plan.shape.stages(); ++stage) times.push_back({1.0 + stage % 3, 2.0 + stage * 5 % 7, 1.0 + stage * 3 % 4});
    for (int rank = 0; rank < plan.shape.ranks; ++rank) {
      double work = 0;
      for (int stage = rank; stage < plan.shape.stages(); stage += plan.shape.ranks) work += times[static_cast<size_t>(stage)].total();
      longest_rank = std::max(longest_rank, work * plan.shape.microbatches);
    }
    const auto simulated = simulate(turns_of_all(plan), times);
    ASSERT_TRUE(simulated) << plan.name();
    EXPECT_GE(simulated->makespan, longest_rank) << plan.name();
  }
}

TEST(PipelineSchedule, TellsTurnsThatWaitForEachOther) {
  Planned plan{PipelineSchedule::k1F1B, {.ranks = 2, .microbatches = 2}};
  std::vector<Turns> turns = turns_of_all(plan);
  std::swap(turns[0][0], turns[0][2]);  // the first rank wants a gradient before it has sent anything
  EXPECT_FALSE(simulate(turns, std::vector<StageTimes>(2, {1, 1, 1})));
}

// By hand: two stages, two microbatches, forward 1, backward 1 + 1.
TEST(PipelineSchedule, SaysWhenEachTurnBeginsAndEnds) {
  const std::vector<StageTimes> times(2, {1, 1, 1});
  const auto begins = [](const std::vector<TimedTurn>& rank) {
    std::vector<double> all;
    for (const TimedTurn& timed : rank) all.push_back(timed.begin);
    return all;
  };
  const PipelineSimulation whole = simulate(PipelineSchedule::k1F1B, {.ranks = 2, .microbatches = 2}, times);
  EXPECT_EQ(begins(whole.ranks[0]), (std::vector<double>{0, 1, 4, 7}));  // F0 F1 B0 B1
  EXPECT_EQ(begins(whole.ranks[1]), (std::vector<double>{1, 2, 4, 5}));  // F0 B0 F1 B1
  EXPECT_EQ(whole.makespan, 9);
  const PipelineSimulation split = simulate(PipelineSchedule::kZeroBubble, {.ranks = 2, .microbatches = 2}, times);
  EXPECT_EQ(begins(split.ranks[0]), (std::vector<double>{0, 1, 3, 4, 5, 6}));  // F0 F1 B0 W0 B1 W1
  EXPECT_EQ(begins(split.ranks[1]), (std::vector<double>{1, 2, 3, 4, 5, 6}));  // F0 B0 F1 B1 W0 W1
  EXPECT_EQ(split.makespan, 7);
}

}  // namespace
}  // namespace ropewalk
