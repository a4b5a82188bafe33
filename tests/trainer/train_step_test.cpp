#include "trainer/train_step.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/parameters.h"
#include "tests/support/tiny_model.h"

namespace ropewalk {
namespace {

class Divergence : public ::testing::Test {
 protected:
  Divergence()
      : options_(testing::tiny_options()),
        model_(options_, Group(), {}),
        optimizer_(options_.optimizer, model_.declarations(), model_.store(), 10) {}

  StepReport step(TrainStep& train_step, int64_t index) {
    const auto sequence = [&](int64_t i) { return testing::tiny_sequence(i, options_.data.seq_len, options_.model.vocabulary); };
    return train_step.run(index, make_batches(sequence, index, {options_.train.batch, 1, 1}, model_.mesh()));
  }

  Options options_;
  RankModel model_;
  Optimizer optimizer_;
};

TEST_F(Divergence, StepsThatAreNotFiniteAreSkipped) {
  TrainStep train_step(model_, optimizer_, {.clip = 1.0});
  model_.store().master(model_.store().parts().front()).data<double>()[0] = std::numeric_limits<double>::infinity();
  const auto before = testing::masters(model_.store()).to_vector<double>();
  EXPECT_STREQ(step(train_step, 0).skipped, "not finite");
  EXPECT_EQ(optimizer_.updates(), 0);
  EXPECT_EQ(testing::masters(model_.store()).to_vector<double>(), before);
}

TEST_F(Divergence, SpikesAreSkippedWhereAskedFor) {
  TrainStep train_step(model_, optimizer_, {.clip = 1.0, .skip_spikes = SpikeOptions{.sigma = 6, .window = 8}});
  train_step.spikes()->restore("1 1\n1.1 1.1\n1 1\n1.1 1.1\n");  // the tiny model's loss is above 2
  const auto before = testing::masters(model_.store()).to_vector<double>();
  EXPECT_STREQ(step(train_step, 0).skipped, "spike");
  EXPECT_EQ(testing::masters(model_.store()).to_vector<double>(), before);
  train_step.spikes()->restore("2 2\n2 9\n9 2\n9 9\n");
  EXPECT_EQ(step(train_step, 0).skipped, nullptr);
  EXPECT_EQ(optimizer_.updates(), 1);
}

}  // namespace
}  // namespace ropewalk
