// Nothing leaks across a document's boundary: a packed row costs what its documents cost one by one.
#include <gtest/gtest.h>

#include "parallel/pipeline.h"
#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/rank_model.h"

namespace ropewalk {
namespace {

double nats(const RankModel& model, const Sequence& row) {
  return Pipeline(model.model(), model.mesh(), model.pipeline_options()).forward({make_microbatch({row}, model.mesh(), 1, 0)});
}

// The document of `row` that begins at `begin`, as a row of its own.
Sequence alone(const Sequence& row, int64_t begin, int64_t end) {
  return {.tokens = {row.tokens.begin() + begin, row.tokens.begin() + end},
          .targets = {row.targets.begin() + begin, row.targets.begin() + end},
          .document_begins = {0}};
}

class PackedRow : public ::testing::TestWithParam<testing::TinyModel> {};

TEST_P(PackedRow, CostsWhatItsDocumentsCostAlone) {
  const Options options = testing::tiny_options(GetParam());
  const RankModel model(options, Group(), {});
  const Sequence row = testing::tiny_sequence(1, 64, options.model.vocabulary);
  ASSERT_GT(row.document_begins.size(), 5u);
  double sum = 0;
  for (size_t i = 0; i < row.document_begins.size(); ++i) {
    const int64_t end = i + 1 < row.document_begins.size() ? row.document_begins[i + 1] : 64;
    sum += nats(model, alone(row, row.document_begins[i], end));
  }
  EXPECT_NEAR(nats(model, row), sum, 1e-10);
}

TEST_P(PackedRow, CostsSomethingElseAsOneDocument) {
  const Options options = testing::tiny_options(GetParam());
  const RankModel model(options, Group(), {});
  Sequence row = testing::tiny_sequence(1, 64, options.model.vocabulary);
  const double packed = nats(model, row);
  row.document_begins = {0};
  EXPECT_GT(std::abs(nats(model, row) - packed), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Models, PackedRow, ::testing::ValuesIn(testing::tiny_models()), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ropewalk
