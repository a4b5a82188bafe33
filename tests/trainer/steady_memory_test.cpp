// A steady step asks the system for no memory: what it needs lies in the allocator's cache.
#include <gtest/gtest.h>
#include <omp.h>

#include "kernels/tensor/allocator.h"
#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/train_step.h"

namespace ropewalk {
namespace {

Microbatch batch_of_whole_rows(const RankModel& model, int64_t step, int64_t vocabulary) {
  std::vector<Sequence> rows;
  for (int64_t row = 0; row < 2; ++row) {
    rows.push_back(testing::tiny_sequence(2 * step + row, 64, vocabulary));
    rows.back().document_begins = {0};  // every step has the same shapes
  }
  return make_microbatch(rows, model.mesh(), 1, 2 * step);
}

TEST(SteadyStep, AsksTheSystemForNoMemory) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // with more, how much scratch is in use at once is a matter of luck
  const Options options = testing::tiny_options();
  const RankModel model(options, Group(), {});
  Optimizer optimizer(options.optimizer, model.declarations(), model.store(), 8);
  TrainStep train_step(model, optimizer, {.clip = 1.0});
  const auto run = [&](int64_t step) { train_step.run(step, {batch_of_whole_rows(model, step, options.model.vocabulary)}); };
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
