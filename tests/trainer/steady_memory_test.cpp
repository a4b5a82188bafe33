// A steady step asks the system for no memory: what it needs lies in the allocator's cache.
#include <gtest/gtest.h>
#include <omp.h>

#include "kernels/tensor/allocator.h"
#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

TEST(SteadyStep, AsksTheSystemForNoMemory) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // with more, how much scratch is in use at once is a matter of luck
  const Options options = testing::tiny_options();
  const RankModel model(options, Group(), {});
  Optimizer optimizer(options.optimizer, model.declarations(), model.store(), 8);
  TrainStep train_step(model, optimizer, {.clip = 1.0});
  const auto row = [&](int64_t i) { return testing::tiny_sequence(i % 2, 64, options.model.vocabulary); };  // the same two every step
  const auto run = [&](int64_t step) { train_step.run(step, make_batches(row, step, {2, 2, 1}, model.mesh())); };
  run(0);
  run(1);
  const int64_t before = Allocator::host().stats().system_calls;
  run(2);
  run(3);
  EXPECT_EQ(Allocator::host().stats().system_calls, before);
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace ropewalk
