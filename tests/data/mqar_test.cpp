#include "data/mqar.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace ropewalk {
namespace {

using ::testing::ElementsAre;

MqarSource source(std::vector<MqarKind> kinds, bool random_non_queries = false) {
  return {.vocab = 512, .train = kinds, .test = kinds, .power_a = 0.01, .random_non_queries = random_non_queries};
}

MqarRows rows_of(const MqarSource& options, int64_t seq_len, uint64_t seed = 1) {
  return {options, options.train, seed, "mqar train", seq_len, /*packed=*/true};
}

// Checks an example against its definition and returns the slots of its queries, by pair.
std::vector<int64_t> check_example(const Sequence& row, int64_t begin, int64_t length, int64_t pairs, int64_t vocab, bool filled) {
  std::set<int64_t> keys, values;
  std::vector<int64_t> slots(pairs, -1);
  for (int64_t k = 0; k < pairs; ++k) {
    keys.insert(row.tokens[begin + 2 * k]);
    values.insert(row.tokens[begin + 2 * k + 1]);
  }
  EXPECT_EQ(std::ssize(keys), pairs);
  EXPECT_EQ(std::ssize(values), pairs);
  EXPECT_TRUE(*keys.begin() >= 1 && *keys.rbegin() < vocab / 2);
  EXPECT_TRUE(*values.begin() >= vocab / 2 && *values.rbegin() < vocab);
  for (int64_t p = 0; p < length; ++p) {
    const int64_t token = row.tokens[begin + p], target = row.targets[begin + p];
    if (target == Sequence::kIgnored) {
      EXPECT_TRUE(p < 2 * pairs || filled || token == 0);
      continue;
    }
    EXPECT_TRUE(p >= 2 * pairs && p % 2 == 0) << p;
    int64_t k = 0;
    while (k < pairs && row.tokens[begin + 2 * k] != token) ++k;
    EXPECT_LT(k, pairs);
    EXPECT_EQ(target, row.tokens[begin + 2 * k + 1]);
    EXPECT_EQ(slots[k], -1);
    slots[k] = (p - 2 * pairs) / 2;
  }
  EXPECT_EQ(std::count(slots.begin(), slots.end(), -1), 0);
  return slots;
}

TEST(Mqar, ExampleIsPairsThenQueriesWithTheirValuesAsTargets) {
  for (const bool filled : {false, true}) {
    const MqarRows rows = rows_of(source({{.length = 64, .pairs = 8, .count = 100}}, filled), 64);
    ASSERT_EQ(rows.count(), 100);
    for (int64_t i = 0; i < rows.count(); ++i) {
      EXPECT_THAT(rows.at(i).document_begins, ElementsAre(0));
      check_example(rows.at(i), 0, 64, 8, 512, filled);
    }
  }
}

TEST(Mqar, FillsWithIdsOfTheWholeVocabulary) {
  const MqarRows rows = rows_of(source({{.length = 64, .pairs = 1, .count = 200}}, true), 64);
  double sum = 0, count = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const Sequence row = rows.at(i);
    for (int64_t p = 2; p < 64; ++p) {
      if (row.targets[p] != Sequence::kIgnored) continue;
      sum += static_cast<double>(row.tokens[p]);
      ++count;
    }
  }
  EXPECT_NEAR(sum / count, 255.5, 5);
}

// The first pair's slot is drawn by the weights alone: p(s) proportional to s^(a - 1).
TEST(Mqar, DrawsGapsByThePowerLaw) {
  constexpr int64_t kCount = 20'000, kSlots = 28;
  const MqarRows rows = rows_of(source({{.length = 64, .pairs = 4, .count = kCount}}), 64);
  std::vector<double> expected(kSlots), drawn(kSlots);
  double sum = 0;
  for (int64_t s = 0; s < kSlots; ++s) sum += expected[s] = std::pow(static_cast<double>(s + 1), 0.01 - 1);
  for (int64_t i = 0; i < kCount; ++i) ++drawn[check_example(rows.at(i), 0, 64, 4, 512, false)[0]];
  double statistic = 0;
  for (int64_t s = 0; s < kSlots; ++s) {
    const double mean = expected[s] / sum * kCount;
    statistic += (drawn[s] - mean) * (drawn[s] - mean) / mean;
  }
  EXPECT_LT(statistic, 55.5);  // 27 degrees of freedom: 99.9 % of draws
}

TEST(Mqar, RowHoldsAsManyExamplesOfItsKindAsFit) {
  const MqarRows rows = rows_of(source({{.length = 24, .pairs = 4, .count = 5}, {.length = 50, .pairs = 2, .count = 2}}), 64);
  ASSERT_EQ(rows.count(), 3 + 2);
  EXPECT_THAT(rows.at(0).document_begins, ElementsAre(0, 24, 48));
  check_example(rows.at(0), 0, 24, 4, 512, false);
  check_example(rows.at(0), 24, 24, 4, 512, false);
  const Sequence last = rows.at(2);
  EXPECT_THAT(last.document_begins, ElementsAre(0, 24));
  EXPECT_EQ(std::count_if(last.targets.begin(), last.targets.end(), [](int64_t t) { return t != Sequence::kIgnored; }), 4);
  EXPECT_EQ(last.tokens.size(), 64u);
  check_example(rows.at(4), 0, 50, 2, 512, false);
  EXPECT_NE(rows.at(3).tokens, rows.at(4).tokens);
}

TEST(Mqar, RowDependsOnSeedAndIndexAlone) {
  const MqarSource options = source({{.length = 64, .pairs = 4, .count = 50}}, true);
  EXPECT_EQ(rows_of(options, 64).at(17).tokens, rows_of(options, 64).at(17).tokens);
  EXPECT_NE(rows_of(options, 64).at(17).tokens, rows_of(options, 64, 2).at(17).tokens);
  EXPECT_NE(rows_of(options, 64).at(17).tokens, rows_of(options, 64).at(18).tokens);
  EXPECT_NE(rows_of(options, 64, 0).at(17).tokens, mqar_test(options, 64, true).at(17).tokens);
}

TEST(MqarSequences, HoldEveryExampleOnceAnEpoch) {
  const MqarSource options = source({{.length = 64, .pairs = 4, .count = 30}});
  const MqarSequences sequences(options, 1, 64, true);
  std::vector<std::vector<int64_t>> first, second, all;
  for (int64_t i = 0; i < 30; ++i) {
    first.push_back(sequences.at(i).tokens);
    second.push_back(sequences.at(30 + i).tokens);
    all.push_back(rows_of(options, 64).at(i).tokens);
  }
  EXPECT_NE(first, second);
  for (auto* epoch : {&first, &second, &all}) std::sort(epoch->begin(), epoch->end());
  EXPECT_EQ(first, all);
  EXPECT_EQ(second, all);
}

TEST(MqarSequences, DigestDependsOnTheTask) {
  const auto digest = [](const MqarSource& options) { return MqarSequences(options, 1, 64, true).digest(); };
  const MqarSource options = source({{.length = 64, .pairs = 4, .count = 30}});
  MqarSource other = options;
  other.train[0].pairs = 5;
  EXPECT_EQ(digest(options), digest(options));
  EXPECT_NE(digest(options), digest(other));
}

}  // namespace
}  // namespace ropewalk
