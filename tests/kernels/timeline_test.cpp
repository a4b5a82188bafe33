#include "kernels/tensor/timeline.h"

#include <gtest/gtest.h>

#include "kernels/linear/linear.h"
#include "kernels/views/views.h"
#include "tests/support/finite_difference.h"

namespace ropewalk {
namespace {

std::vector<std::string> names(const Timeline& timeline, TimeSpan::Kind kind) {
  std::vector<std::string> found;
  for (const TimeSpan& span : timeline.spans())
    if (span.kind == kind) found.emplace_back(span.name);
  return found;
}

using Names = std::vector<std::string>;

TEST(Timeline, NamesTheOpsForwardAndBackward) {
  Timeline timeline;
  {
    const Recording recording(timeline);
    Tape tape;
    const Var x = tape.input(testing::random_tensor({6, 4}, 1)), w = testing::parameter("w", testing::random_tensor({10, 4}, 2));
    const Vars halves = split_last(linear(x, w), {5, 5});
    tape.backward(halves, {testing::random_tensor({6, 5}, 3), testing::random_tensor({6, 5}, 4)});
  }
  EXPECT_EQ(names(timeline, TimeSpan::kForward), (Names{"linear", "split_last"}));
  EXPECT_EQ(names(timeline, TimeSpan::kBackward), (Names{"split_last", "linear"}));
  EXPECT_EQ(names(timeline, TimeSpan::kKernel), (Names{"MatMul", "MatMul", "MatMul"}));
}

TEST(Timeline, KnowsWhatAProductHasToDo) {
  Timeline timeline;
  {
    const Recording recording(timeline);
    linear(Var(testing::random_tensor({2, 3, 4}, 1)), Var(testing::random_tensor({10, 4}, 2)));
  }
  ASSERT_EQ(timeline.spans().size(), 2u);
  const TimeSpan &kernel = timeline.spans()[0], &op = timeline.spans()[1];
  EXPECT_EQ(kernel.effort.flops, 2 * 6 * 4 * 10);
  EXPECT_EQ(kernel.effort.bytes, 8 * (6 * 4 + 4 * 10 + 6 * 10));
  EXPECT_EQ(op.effort.bytes, kernel.effort.bytes);
  EXPECT_LE(op.begin, kernel.begin);
  EXPECT_GE(op.end, kernel.end);
}

TEST(Timeline, CountsNothingForAView) {
  Timeline timeline;
  {
    const Recording recording(timeline);
    split_last(Var(testing::random_tensor({6, 10}, 1)), {5, 5});
  }
  ASSERT_EQ(timeline.spans().size(), 1u);
  EXPECT_EQ(timeline.spans()[0].effort.bytes, 0);
}

TEST(Timeline, HearsNothingAfterItsRecording) {
  Timeline timeline;
  { const Recording recording(timeline); }
  EXPECT_EQ(Timeline::recording(), nullptr);
  { const Phase phase("later"); }
  EXPECT_TRUE(timeline.spans().empty());
}

TEST(Timeline, BeginsAnOpWhereThePhaseBegan) {
  Timeline timeline;
  {
    const Recording recording(timeline);
    const Phase phase("forward");
    linear(Var(testing::random_tensor({6, 4}, 1)), Var(testing::random_tensor({10, 4}, 2)));
  }
  ASSERT_EQ(timeline.spans().size(), 3u);
  EXPECT_EQ(timeline.spans()[1].begin, timeline.spans()[2].begin);
}

}  // namespace
}  // namespace ropewalk
