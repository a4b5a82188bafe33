#include "parallel/comm/deadline.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

namespace ropewalk {
namespace {

using std::chrono::milliseconds;

TEST(Deadline, IsMissedOnce) {
  std::atomic<int> missed = 0;
  {
    const Deadline deadline(0.02, [&] { ++missed; });
    while (missed == 0) std::this_thread::yield();
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_EQ(missed, 1);
}

TEST(Deadline, IsMetByEndingInTime) {
  std::atomic<int> missed = 0;
  {
    const Deadline deadline(60, [&] { ++missed; });
  }
  { const Deadline never; }
  EXPECT_EQ(missed, 0);
}

TEST(Deadline, BeginsAgainWhenExtended) {
  std::atomic<int> missed = 0;
  {
    Deadline deadline(2, [&] { ++missed; });
    for (int i = 0; i < 25; ++i) {  // longer together than the deadline
      std::this_thread::sleep_for(milliseconds(100));
      deadline.extend();
    }
  }
  EXPECT_EQ(missed, 0);
}

}  // namespace
}  // namespace ropewalk
