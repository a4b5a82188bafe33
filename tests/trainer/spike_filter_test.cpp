#include "trainer/spike_filter.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ropewalk {
namespace {

// Mean 3, standard deviation sqrt(8 / 7): four of 2 and four of 4.
void take_eight(SpikeFilter& filter) {
  for (int i = 0; i < 8; ++i) EXPECT_FALSE(filter.stands_out(i % 2 == 0 ? 2 : 4, 1)) << i;
}

TEST(SpikeFilter, FindsWhatIsSigmaDeviationsAboveTheMean) {
  const double limit = 3 + 4 * std::sqrt(8.0 / 7);
  for (const double distance : {-1e-9, 1e-9}) {
    SpikeFilter filter({.sigma = 4, .window = 8});
    take_eight(filter);
    EXPECT_EQ(filter.stands_out(limit + distance, 1), distance > 0);
  }
}

TEST(SpikeFilter, LooksAtTheGradientNormToo) {
  SpikeFilter filter({.sigma = 4, .window = 8});
  take_eight(filter);
  EXPECT_TRUE(filter.stands_out(3, 1.1));  // all norms were 1
  EXPECT_FALSE(filter.stands_out(3, 1));
}

TEST(SpikeFilter, WaitsForHalfAWindow) {
  SpikeFilter filter({.sigma = 1, .window = 8});
  for (const double loss : {1.0, 2.0, 30.0, 400.0}) EXPECT_FALSE(filter.stands_out(loss, 1));
  EXPECT_TRUE(filter.stands_out(5000, 1));
}

TEST(SpikeFilter, ComparesOnlyWithStepsThatWereTaken) {
  SpikeFilter filter({.sigma = 4, .window = 8});
  take_eight(filter);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(filter.stands_out(100, 1));
}

TEST(SpikeFilter, ForgetsWhatIsOlderThanTheWindow) {
  SpikeFilter filter({.sigma = 4, .window = 8});
  take_eight(filter);
  for (int i = 0; i < 8; ++i) filter.stands_out(i % 2 == 0 ? 0.2 : 0.4, 1);
  EXPECT_TRUE(filter.stands_out(2, 1));
}

TEST(SpikeFilter, GoesOnFromItsStateAsIfItNeverStopped) {
  SpikeFilter before({.sigma = 4, .window = 8}), after({.sigma = 4, .window = 8});
  for (int i = 0; i < 11; ++i) before.stands_out(1 / (3.0 + i), std::sqrt(2.0 + i));
  after.restore(before.state());
  EXPECT_EQ(after.state(), before.state());
  EXPECT_EQ(after.stands_out(0.1, 3.6), before.stands_out(0.1, 3.6));
  EXPECT_EQ(after.state(), before.state());
}

}  // namespace
}  // namespace ropewalk
