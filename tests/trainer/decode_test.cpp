// Decoding token by token, and in pieces, against the parallel forward that training runs.
#include <gtest/gtest.h>

#include <cmath>

#include "parallel/pipeline.h"
#include "tests/support/finite_difference.h"
#include "tests/support/tiny_model.h"
#include "trainer/batches.h"
#include "trainer/generate.h"

namespace ropewalk {
namespace {

constexpr int64_t kLength = 23;  // several chunks of 4 and 5, three windows of 7

std::vector<int64_t> tokens(int64_t vocabulary) { return testing::tiny_sequence(2, kLength, vocabulary).tokens; }

// -log p(target | tokens up to t), by the training forward with everything else ignored.
double parallel_nats(const RankModel& model, const std::vector<int64_t>& tokens, int64_t t, int64_t target) {
  Sequence row{.tokens = tokens, .targets = std::vector<int64_t>(kLength, Sequence::kIgnored), .document_begins = {0}};
  row.targets[t] = target;
  return Pipeline(model.model(), model.mesh(), model.pipeline_options()).forward({make_microbatch({row}, model.mesh(), 1, 0)});
}

double nats(const Tensor& logits, int64_t target) {
  const auto values = logits.to_vector<double>();
  double sum = 0;
  for (const double value : values) sum += std::exp(value);
  return std::log(sum) - values[target];
}

class Decode : public ::testing::TestWithParam<testing::TinyModel> {
 protected:
  // Feeds chunks of the given lengths in turn, and compares behind each.
  static void expect_parallel_forward(const std::vector<int64_t>& chunks) {
    const Options options = testing::tiny_options(GetParam());
    const int64_t vocabulary = options.model.vocabulary;
    const RankModel model(options, Group(), {});
    Decoder decoder(model, kLength);
    const std::vector<int64_t> all = tokens(vocabulary);
    int64_t fed = 0;
    for (size_t i = 0; fed < kLength; ++i) {
      const int64_t count = std::min(chunks[i % chunks.size()], kLength - fed);
      const Tensor logits = decoder.feed({all.begin() + fed, all.begin() + fed + count});
      fed += count;
      for (int64_t target = 0; target < vocabulary; ++target)
        EXPECT_NEAR(nats(logits, target), parallel_nats(model, all, fed - 1, target), 1e-10)
            << "token " << fed - 1 << ", target " << target;
    }
  }
};

TEST_P(Decode, TokenByTokenEqualsTheParallelForward) { expect_parallel_forward({1}); }
TEST_P(Decode, PrefillThenTokensEqualsTheParallelForward) { expect_parallel_forward({11, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}); }
TEST_P(Decode, UnevenChunksEqualTheParallelForward) { expect_parallel_forward({3, 1, 6, 2}); }

INSTANTIATE_TEST_SUITE_P(Models, Decode, ::testing::ValuesIn(testing::tiny_models()), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ropewalk
