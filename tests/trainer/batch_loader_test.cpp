#include "trainer/batch_loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

namespace ropewalk {
namespace {

// A step's microbatches that tell which step it is.
std::vector<Microbatch> marked(int64_t step) {
  return {{.layout = {}, .tokens_BS = Tensor::full({1, 2}, static_cast<double>(step), DType::kInt64), .targets_BS = {}}};
}

TEST(BatchLoader, GivesTheStepsInTheirOrder) {
  BatchLoader loader(marked, 5, 200);
  for (int64_t step = 5; step < 200; ++step) {
    const auto batches = loader.next();
    ASSERT_EQ(batches.size(), 1u);
    EXPECT_EQ(batches[0].tokens_BS.to_vector<int64_t>(), (std::vector<int64_t>{step, step}));
  }
}

TEST(BatchLoader, ThrowsAtTheStepThatFailed) {
  BatchLoader loader(
      [](int64_t step) {
        if (step == 3) throw Error(3, "step 3 is damaged");
        return marked(step);
      },
      0, 10);
  for (int64_t step = 0; step < 3; ++step) EXPECT_NO_THROW(loader.next());
  EXPECT_THROW(loader.next(), Error);
  EXPECT_THROW(loader.next(), Error);
}

TEST(BatchLoader, WorksAheadButNotFar) {
  std::atomic<int64_t> made = 0;
  BatchLoader loader([&](int64_t step) { return ++made, marked(step); }, 0, 1000);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (made < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(made, 3);  // two that wait, and one that waits for a place
  loader.next();
}

TEST(BatchLoader, MayBeLeftAtAnyTime) {
  for (int64_t taken = 0; taken < 4; ++taken) {
    BatchLoader loader(marked, 0, 3);
    for (int64_t step = 0; step < std::min<int64_t>(taken, 3); ++step) loader.next();
  }
  BatchLoader none(marked, 7, 7);
}

}  // namespace
}  // namespace ropewalk
