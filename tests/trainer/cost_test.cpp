// What a model says that it costs is what its kernels count.
#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/rank_model.h"

namespace ropewalk {
namespace {

// Forward over whole rows, every token scored: what the formulas count.
double counted_flops(const RankModel& model, int64_t rows, int64_t length, int64_t vocabulary) {
  std::vector<Sequence> sequences;
  for (int64_t i = 0; i < rows; ++i) {
    Sequence row = testing::tiny_sequence(i, length, vocabulary);
    row.targets = row.tokens;
    row.document_begins = {0};
    sequences.push_back(row);
  }
  Timeline timeline;
  {
    const Recording recording(timeline);
    Pipeline(model.model(), model.mesh(), model.pipeline_options()).forward({make_microbatch(sequences, model.mesh(), 1, 0)});
  }
  double flops = 0;
  for (const TimeSpan& span : timeline.spans())
    if (span.kind == TimeSpan::kKernel) flops += span.effort.flops;
  return flops;
}

class CostTest : public ::testing::TestWithParam<testing::TinyModel> {};

TEST_P(CostTest, OfForwardIsWhatTheKernelsCount) {
  Options options = testing::tiny_options(GetParam());
  const int64_t rows = 2, length = 60;  // a multiple of every chunk
  const RankModel model(options, Group(), {});
  const Cost cost = model.model().cost({.rows = rows, .length = length});
  EXPECT_NEAR(cost.flops, counted_flops(model, rows, length, options.model.vocabulary), 1e-9 * cost.flops);
}

INSTANTIATE_TEST_SUITE_P(TinyModels, CostTest, ::testing::ValuesIn(testing::tiny_models()),
                         [](const ::testing::TestParamInfo<testing::TinyModel>& info) { return info.param.name; });

}  // namespace
}  // namespace ropewalk
