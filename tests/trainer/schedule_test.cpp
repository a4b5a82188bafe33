#include "trainer/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ropewalk {
namespace {

TEST(Schedule, WarmsUpFromTheFirstStepOn) {
  const ScheduleOptions schedule{.type = ScheduleOptions::kConstant, .warmup = 4};
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 0, 100), 0.25);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 3, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 99, 100), 1);
}

TEST(Schedule, TakesLengthsBelowOneAsSharesOfTheRun) {
  const ScheduleOptions share{.type = ScheduleOptions::kConstant, .warmup = 0.1}, steps{.type = ScheduleOptions::kConstant, .warmup = 20};
  for (int64_t step = 0; step < 200; ++step) EXPECT_DOUBLE_EQ(schedule_factor(share, step, 200), schedule_factor(steps, step, 200));
}

TEST(Schedule, CosineFallsFromOneToFinal) {
  const ScheduleOptions schedule{.type = ScheduleOptions::kCosine, .warmup = 10, .final = 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 10, 110), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 60, 110), 0.6);
  EXPECT_NEAR(schedule_factor(schedule, 110, 110), 0.2, 1e-15);
}

TEST(Schedule, LinearFallsFromOneToFinal) {
  const ScheduleOptions schedule{.type = ScheduleOptions::kLinear, .warmup = 10, .final = 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 9, 110), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 10, 110), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 35, 110), 0.8);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 60, 110), 0.6);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 109, 110), 0.208);
}

TEST(Schedule, InverseSqrtFallsFromWhereWarmupEnds) {
  ScheduleOptions schedule{.type = ScheduleOptions::kInverseSqrt, .warmup = 4};
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 1, 1000), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 3, 1000), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 15, 1000), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 399, 1000), 0.1);
  schedule.final = 0.3;
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 399, 1000), 0.3);
  schedule = {.type = ScheduleOptions::kInverseSqrt};
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 0, 1000), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 8, 1000), 1.0 / 3);
}

TEST(Schedule, WsdHoldsAndThenDecaysInItsShape) {
  ScheduleOptions schedule{.type = ScheduleOptions::kWsd, .shape = ScheduleOptions::kLinearDecay, .warmup = 0, .decay = 0.25, .final = 0};
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 74, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 75, 100), 0.96);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 99, 100), 0);
  schedule.shape = ScheduleOptions::kSqrtDecay;
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 75, 100), 0.8);
  schedule.shape = ScheduleOptions::kCosineDecay;
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 99, 100), 0);
  schedule.final = 0.5;
  EXPECT_DOUBLE_EQ(schedule_factor(schedule, 99, 100), 0.5);
}

}  // namespace
}  // namespace ropewalk
