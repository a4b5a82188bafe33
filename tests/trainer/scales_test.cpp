// model.scales does what the same factors in the weights would do.
#include <gtest/gtest.h>

#include "parallel/pipeline.h"
#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/rank_model.h"

namespace ropewalk {
namespace {

Options three_layers(const ScaleOptions& scales) {
  testing::TinyModel tiny = testing::tiny_models().front();
  tiny.model.tie_embeddings = false;
  tiny.model.layers = {{"M"}, {"A"}, {"F"}};
  tiny.model.shared.clear();
  tiny.model.kv.clear();
  tiny.model.scales = scales;
  return testing::tiny_options(tiny);
}

void multiply(const RankModel& model, const std::string& ending, double factor) {
  for (const PlacedPart& part : model.store().parts()) {
    if (!part.spec.name.ends_with(ending)) continue;
    const Tensor values = model.store().master(part);
    for (int64_t i = 0; i < values.numel(); ++i) values.data<double>()[i] *= factor;
  }
}

double nats(const RankModel& model) {
  const Sequence row = testing::tiny_sequence(1, 32, 13);
  return Pipeline(model.model(), model.mesh(), model.pipeline_options()).forward({make_microbatch({row}, model.mesh(), 1, 0)});
}

void expect_same(const ScaleOptions& scales, const std::vector<std::string>& endings, double factor) {
  const RankModel scaled(three_layers(scales), Group(), {}), plain(three_layers({}), Group(), {});
  const double before = nats(plain);
  for (const std::string& ending : endings) multiply(plain, ending, factor);
  EXPECT_NEAR(nats(scaled), nats(plain), 1e-10);
  EXPECT_GT(std::abs(nats(scaled) - before), 1e-6);
}

TEST(Scales, EmbedIsAFactorOfTheEmbedding) { expect_same({.embed = 30, .residual = 1, .logits = 1}, {"embedding"}, 30); }
TEST(Scales, ResidualIsAFactorOfEachBranch) { expect_same({.embed = 1, .residual = 0.25, .logits = 1}, {"out_proj", "down"}, 0.25); }
TEST(Scales, LogitsIsAFactorOfTheHead) { expect_same({.embed = 1, .residual = 1, .logits = 7}, {"head"}, 7); }

}  // namespace
}  // namespace ropewalk
