#include "trainer/checkpoint/box.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <vector>

namespace ropewalk {
namespace {

// The global index of every element of a region, row-major.
std::vector<int64_t> elements(const Region& region, const Shape& global) {
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < region.numel(); ++i) {
    int64_t rest = i, index = 0, step = 1;
    for (int d = global.rank() - 1; d >= 0; --d) {
      index += (region.start[d] + rest % region.extent[d]) * step;
      rest /= region.extent[d];
      step *= global[d];
    }
    indices.push_back(index);
  }
  return indices;
}

TEST(Stretches, CopyExactlyTheCommonElements) {
  const Shape global{5, 4, 6};
  const std::vector<Region> regions = {{{0, 0, 0}, {5, 4, 6}}, {{1, 0, 0}, {3, 4, 6}}, {{0, 1, 0}, {5, 2, 6}}, {{0, 0, 2}, {5, 4, 3}},
                                       {{2, 1, 1}, {2, 3, 4}}, {{4, 3, 5}, {1, 1, 1}}, {{0, 0, 0}, {2, 2, 2}}};
  for (const Region& from : regions)
    for (const Region& to : regions) {
      const std::vector<int64_t> source = elements(from, global), wanted = elements(to, global);
      std::vector<int64_t> target(wanted.size(), -1);
      int64_t last = -1;
      for_each_stretch(from, to, [&](const Stretch& s) {
        EXPECT_GT(s.from, last);
        last = s.from + s.length - 1;
        std::copy_n(source.begin() + s.from, s.length, target.begin() + s.to);
      });
      for (size_t i = 0; i < wanted.size(); ++i) {
        const bool common = std::find(source.begin(), source.end(), wanted[i]) != source.end();
        EXPECT_EQ(target[i], common ? wanted[i] : -1) << from.to_string() << " to " << to.to_string();
      }
    }
}

TEST(Stretches, AreAsLongAsBothBuffersAllow) {
  int count = 0;
  const auto counted = [&](const Stretch& s) { count += s.length > 0; };
  for_each_stretch({{0, 0, 0}, {8, 3, 5}}, {{2, 0, 0}, {4, 3, 5}}, counted);
  EXPECT_EQ(count, 1);
  count = 0;
  for_each_stretch({{0, 1, 0}, {8, 2, 5}}, {{0, 0, 0}, {8, 3, 5}}, counted);
  EXPECT_EQ(count, 8);
}

TEST(Slabs, FollowEachOtherInRowMajorOrder) {
  const Shape shape{3, 4, 5};
  for (int64_t limit = 1; limit <= 70; ++limit) {
    std::vector<int64_t> all;
    for_each_slab(shape, limit, [&](const Region& slab) {
      EXPECT_LE(slab.numel(), limit);
      const std::vector<int64_t> part = elements(slab, shape);
      all.insert(all.end(), part.begin(), part.end());
    });
    std::vector<int64_t> expected(60);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(all, expected) << limit;
  }
}

// A range of whole rows, as ranks own it: of a vector's elements, else along the last dim.
TEST(RegionsOfRange, CoverItOnceInOrderAndAreFew) {
  std::mt19937_64 random(1);
  const auto draw = [&](int64_t from, int64_t to) { return from + static_cast<int64_t>(random() % static_cast<uint64_t>(to - from + 1)); };
  for (int i = 0; i < 2000; ++i) {
    Shape shape{draw(1, 5)};
    for (int64_t dims = draw(0, 3); dims > 0; --dims) shape = shape.then({draw(1, 5)});
    const int64_t width = shape.rank() == 1 ? 1 : shape[-1], rows = shape.numel() / width;
    const int64_t first = draw(0, rows), last = draw(first, rows);

    std::vector<int64_t> all, expected(static_cast<size_t>((last - first) * width));
    std::iota(expected.begin(), expected.end(), first * width);
    const std::vector<Region> regions = regions_of_range(shape, first * width, last * width);
    for (const Region& region : regions) {
      const std::vector<int64_t> part = elements(region, shape);
      all.insert(all.end(), part.begin(), part.end());
    }
    EXPECT_EQ(all, expected) << shape.to_string() << " from row " << first << " to " << last;
    // One up to a border of each dim that counts rows, one down from it, and one between.
    EXPECT_LE(regions.size(), static_cast<size_t>(2 * std::max(1, shape.rank() - 1) - 1))
        << shape.to_string() << " from row " << first << " to " << last;
  }
}

}  // namespace
}  // namespace ropewalk
