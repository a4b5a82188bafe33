// The share of right answers: the same on every mesh, and what decoding finds. Runs on four ranks; smaller meshes are cut from them.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"
#include "trainer/evaluate.h"
#include "trainer/generate.h"

namespace ropewalk {
namespace {

// Rows that are one document each, some of whose targets are ignored.
class WholeRows final : public ScoredRows {
 public:
  explicit WholeRows(const Options& options) : options_(options) {}
  int64_t count() const override { return 11; }
  Sequence at(int64_t i) const override { return testing::tiny_sequence(4 * i + 2, options_.data.seq_len, options_.model.vocabulary); }

 private:
  const Options& options_;
};

Evaluation evaluation(const Options& options, const Group& group, const Degrees& degrees) {
  Dataset data;
  data.validation = std::make_unique<WholeRows>(options);
  data.recall = true;
  return evaluate(RankModel(options, group, degrees), data, 2);
}

double right_by_decoding(const Options& options) {
  const RankModel model(options, Group(), {});
  const WholeRows rows(options);
  double right = 0;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Sequence row = rows.at(i);
    Decoder decoder(model, options.data.seq_len);
    for (size_t t = 0; t < row.tokens.size(); ++t) {
      const auto logits = decoder.feed({row.tokens[t]}).to_vector<double>();
      right += row.targets[t] == std::max_element(logits.begin(), logits.end()) - logits.begin();
    }
  }
  return right;
}

TEST(Recall, IsWhatDecodingFinds) {
  const Options options = testing::tiny_options();
  const Evaluation on_one_rank = evaluation(options, Group(), {});
  EXPECT_GT(on_one_rank.right, 5);
  EXPECT_EQ(on_one_rank.right, right_by_decoding(options));
}

TEST(Recall, IsTheSameOnEveryMesh) {
  const Options options = testing::tiny_options();
  const Evaluation on_one_rank = evaluation(options, Group(), {});
  const auto expect_same = [&](const Evaluation& on_mesh) {
    EXPECT_EQ(on_mesh.right, on_one_rank.right);
    EXPECT_EQ(on_mesh.targets, on_one_rank.targets);
    EXPECT_NEAR(on_mesh.nats, on_one_rank.nats, 1e-9 * on_one_rank.nats);
  };
  for (const Degrees& degrees : {Degrees{.tensor = 4}, Degrees{.pipeline = 2, .tensor = 2}, Degrees{.data = 2, .context = 2},
                                 Degrees{.context = 2, .tensor = 2}, Degrees{.data = 4}})
    expect_same(evaluation(options, testing::world(), degrees));
  Options in_chunks = options;
  in_chunks.parallel.pipeline = 4;
  in_chunks.parallel.schedule = PipelineSchedule::kInterleaved;
  in_chunks.parallel.virtual_stages = 2;
  expect_same(evaluation(in_chunks, testing::world(), {.pipeline = 4}));
}

}  // namespace
}  // namespace ropewalk
