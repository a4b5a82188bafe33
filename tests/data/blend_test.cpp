#include "data/blend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/error.h"

namespace ropewalk {
namespace {

// Whose sequence i is {source, i}.
class Numbered final : public Sequences {
 public:
  explicit Numbered(int64_t source) : source_(source) {}
  Sequence at(int64_t i) const override { return {.tokens = {source_, i}, .targets = {}, .document_begins = {}}; }
  uint64_t digest() const override { return static_cast<uint64_t>(source_); }
  int64_t tokens() const override { return 10 * source_; }

 private:
  int64_t source_;
};

class NumberedRows final : public ScoredRows {
 public:
  NumberedRows(int64_t source, int64_t count) : source_(source), count_(count) {}
  int64_t count() const override { return count_; }
  Sequence at(int64_t i) const override { return {.tokens = {source_, i}, .targets = {}, .document_begins = {}}; }

 private:
  int64_t source_, count_;
};

Blend blended(const std::vector<double>& weights) {
  std::vector<std::unique_ptr<Sequences>> sources;
  for (size_t s = 0; s < weights.size(); ++s) sources.push_back(std::make_unique<Numbered>(s));
  return {weights, std::move(sources)};
}

TEST(BlendOrder, KeepsEveryShareWithinOneSequenceAtEveryPrefix) {
  const std::vector<std::vector<double>> cases = {{1},
                                                  {0.5, 0.5},
                                                  {0.7, 0.3},
                                                  {3, 2, 1},
                                                  {1, 1, 1, 1, 1, 1, 1},
                                                  {0.9, 0.02, 0.02, 0.02, 0.02, 0.02},
                                                  {100, 10, 1, 0.1, 0.01},
                                                  {0.31, 0.29, 0.17, 0.11, 0.07, 0.05}};
  for (const std::vector<double>& weights : cases) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    const BlendOrder order(weights);
    std::vector<double> drawn(weights.size());
    for (int64_t i = 0; i < 20'000; ++i) {
      const auto [source, index] = order.at(i);
      ASSERT_EQ(static_cast<double>(index), drawn[source]++);
      for (size_t s = 0; s < weights.size(); ++s)
        ASSERT_LT(std::abs(drawn[s] - weights[s] / sum * static_cast<double>(i + 1)), 1) << "source " << s << " of " << i + 1;
    }
  }
}

TEST(BlendOrder, DoesNotDependOnWhatWasAskedBefore) {
  const BlendOrder forward({5, 3, 2}), jumping({5, 3, 2});
  std::vector<BlendOrder::Draw> draws;
  for (int64_t i = 0; i < 1000; ++i) draws.push_back(forward.at(i));
  for (const int64_t i : {999, 0, 500, 500, 501, 3, 998}) {
    EXPECT_EQ(jumping.at(i).source, draws[i].source);
    EXPECT_EQ(jumping.at(i).index, draws[i].index);
  }
}

TEST(Blend, GivesTheSequencesOfEachSourceInTheirOrder) {
  const Blend blend = blended({2, 1});
  std::vector<int64_t> next(2);
  for (int64_t i = 0; i < 30; ++i) {
    const Sequence row = blend.at(i);
    EXPECT_EQ(row.tokens[1], next[row.tokens[0]]++);
  }
  EXPECT_EQ(next, (std::vector<int64_t>{20, 10}));
  EXPECT_EQ(blend.tokens(), 10);
}

TEST(Blend, DigestDependsOnWeightsAndSources) {
  EXPECT_EQ(blended({2, 1}).digest(), blended({2, 1}).digest());
  EXPECT_NE(blended({2, 1}).digest(), blended({1, 2}).digest());
  EXPECT_NE(blended({2, 1}).digest(), blended({2, 1, 1}).digest());
}

TEST(Blend, RefusesWeightsThatAreNotPositive) {
  EXPECT_THROW(BlendOrder({}), Error);
  EXPECT_THROW(BlendOrder({1, 0}), Error);
}

TEST(RowsInTurn, AreOneSourceAfterTheOther) {
  std::vector<std::unique_ptr<ScoredRows>> sources;
  for (const int64_t count : {2, 0, 3}) sources.push_back(std::make_unique<NumberedRows>(std::ssize(sources), count));
  const RowsInTurn rows(std::move(sources));
  ASSERT_EQ(rows.count(), 5);
  EXPECT_EQ(rows.at(1).tokens, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(rows.at(2).tokens, (std::vector<int64_t>{2, 0}));
  EXPECT_EQ(rows.at(4).tokens, (std::vector<int64_t>{2, 2}));
}

}  // namespace
}  // namespace ropewalk
