#include "data/permutation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

namespace ropewalk {
namespace {

std::vector<int64_t> listed(const Permutation& order) {
  std::vector<int64_t> list(order.count());
  for (int64_t i = 0; i < order.count(); ++i) list[i] = order(i);
  return list;
}

std::vector<int64_t> ascending(int64_t count) {
  std::vector<int64_t> list(count);
  std::iota(list.begin(), list.end(), 0);
  return list;
}

Permutation keyed(int64_t count, uint64_t seed, int64_t index = 0) { return {count, Philox(seed, "order"), index}; }

TEST(Permutation, HoldsEachNumberOnce) {
  for (const int64_t count : {0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 1000, 1025, 70000}) {
    std::vector<int64_t> list = listed(keyed(count, 3));
    std::sort(list.begin(), list.end());
    EXPECT_EQ(list, ascending(count)) << count;
  }
}

TEST(Permutation, IsTheIdentityWithoutKeys) { EXPECT_EQ(listed(Permutation(100)), ascending(100)); }

TEST(Permutation, DependsOnKeysAndIndex) {
  EXPECT_EQ(listed(keyed(1000, 1)), listed(keyed(1000, 1)));
  EXPECT_NE(listed(keyed(1000, 1)), listed(keyed(1000, 2)));
  EXPECT_NE(listed(keyed(1000, 1, 0)), listed(keyed(1000, 1, 1)));
}

// Pearson's statistic of all 24 orders of four: 23 degrees of freedom, 99.9 % of draws below 49.7.
TEST(Permutation, GivesEveryOrderOfFourAsOften) {
  constexpr int kDraws = 24'000;
  std::map<std::vector<int64_t>, int> seen;
  for (int seed = 0; seed < kDraws; ++seed) ++seen[listed(keyed(4, static_cast<uint64_t>(seed)))];
  ASSERT_EQ(seen.size(), 24u);
  double statistic = 0;
  for (const auto& [order, count] : seen) statistic += (count - kDraws / 24.0) * (count - kDraws / 24.0) / (kDraws / 24.0);
  EXPECT_LT(statistic, 49.7);
}

// In an order of many, what follows a number is no nearer to it than anything else: |difference| is n / 3 on average.
TEST(Permutation, LeavesNeighboursApart) {
  const std::vector<int64_t> list = listed(keyed(100'000, 5));
  double sum = 0;
  for (size_t i = 1; i < list.size(); ++i) sum += static_cast<double>(std::abs(list[i] - list[i - 1]));
  EXPECT_NEAR(sum / 1e5, 1e5 / 3, 300);
}

}  // namespace
}  // namespace ropewalk
