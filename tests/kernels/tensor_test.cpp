#include "kernels/tensor/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/tensor/allocator.h"
#include "kernels/tensor/philox.h"

namespace ropewalk {
namespace {

using ::testing::ElementsAre;

// 0, 1, 2, ... in this shape.
Tensor counting(const Shape& shape) {
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0);
  return Tensor::from(shape, values);
}

TEST(Tensor, NarrowsAndSelectsWithoutCopying) {
  const Tensor x = counting({2, 3, 4});
  const Tensor view = x.narrow(2, 1, 2).select(0, 1);
  EXPECT_EQ(view.shape(), (Shape{3, 2}));
  EXPECT_THAT(view.to_vector<double>(), ElementsAre(13, 14, 17, 18, 21, 22));
  view.fill(-1);
  EXPECT_EQ(x.data<double>()[13], -1);
  EXPECT_EQ(x.data<double>()[12], 12);
}

TEST(Tensor, ReshapesASliceWhereAViewExistsAndRefusesWhereNone) {
  const Tensor slice = counting({2, 3, 8}).narrow(2, 2, 4);
  const Tensor heads = slice.reshape({2, 3, 2, 2});
  EXPECT_EQ(heads.to_vector<double>(), slice.to_vector<double>());
  EXPECT_EQ(heads.storage(), slice.storage());
  EXPECT_EQ(slice.reshape({6, 4}).to_vector<double>(), slice.to_vector<double>());
  EXPECT_THROW(slice.reshape({2, 12}), ShapeError);
  EXPECT_THROW(slice.reshape({5, 5}), ShapeError);
}

TEST(Tensor, IsRowsExactlyWhenLeadingDimsFold) {
  const Tensor x = counting({2, 3, 8});
  EXPECT_TRUE(is_rows(x.narrow(2, 1, 4)));
  EXPECT_EQ(row_stride(x.narrow(2, 1, 4), "x"), 8);
  EXPECT_FALSE(is_rows(x.narrow(1, 0, 2)));
  EXPECT_TRUE(is_rows(x.narrow(1, 0, 2).select(0, 1)));
}

TEST(Tensor, ConcatenatesAlongAnyDim) {
  const Tensor x = counting({2, 2});
  EXPECT_THAT(concat({x, x}, 0).to_vector<double>(), ElementsAre(0, 1, 2, 3, 0, 1, 2, 3));
  EXPECT_THAT(concat({x, x.narrow(1, 0, 1)}, 1).to_vector<double>(), ElementsAre(0, 1, 0, 2, 3, 2));
}

TEST(Tensor, ConvertsAndAddsAcrossDtypesAndStrides) {
  const Tensor x = counting({2, 3}), sum = Tensor::full({2, 3}, 1, DType::kFloat32);
  sum.add(x.to(DType::kBFloat16));
  EXPECT_THAT(sum.to_vector<double>(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THROW(sum.data<double>(), ShapeError);
}

TEST(Tensor, PendingStorageIsFilledByItsFirstReaderOnce) {
  int completions = 0;
  const Tensor x = Tensor::empty({2}, DType::kFloat64);
  x.pend([&](const Tensor& to) {
    ++completions;
    to.fill(3);
  });
  EXPECT_EQ(x.shape(), (Shape{2}));
  EXPECT_EQ(completions, 0);
  EXPECT_THAT(x.to_vector<double>(), ElementsAre(3, 3));
  EXPECT_THAT(x.to_vector<double>(), ElementsAre(3, 3));
  EXPECT_EQ(completions, 1);
}

TEST(BFloat16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(bfloat16(1.00390625f).bits, 0x3f80);  // halfway to the next: down to even
  EXPECT_EQ(bfloat16(1.01171875f).bits, 0x3f82);  // halfway: up to even
  EXPECT_EQ(bfloat16(1.004f).bits, 0x3f81);
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(static_cast<float>(bfloat16(3.4e38f))));
}

TEST(Allocator, HandsFreedBlocksOutAgainAndKeepsThePeak) {
  Allocator allocator;
  void* first = allocator.allocate(1000);
  void* second = allocator.allocate(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  allocator.release(first, 1000);
  EXPECT_EQ(allocator.allocate(1001), first);  // the same size class
  EXPECT_EQ(allocator.stats().system_calls, 2);
  EXPECT_EQ(allocator.stats().in_use, 2001);  // what was asked for
  allocator.release(first, 1001);
  allocator.release(second, 1000);
  EXPECT_EQ(allocator.stats().in_use, 0);
  EXPECT_EQ(allocator.stats().peak, 2001);
  EXPECT_EQ(allocator.stats().reserved, 2048);
  allocator.trim();
  EXPECT_EQ(allocator.stats().reserved, 0);
}

#ifdef __SANITIZE_ADDRESS__
TEST(AllocatorDeathTest, LetsAddressSanitizerSeeItsBlocks) {
  Allocator allocator;
  char* const block = static_cast<char*>(allocator.allocate(1000));
  EXPECT_EQ(block[999], char(0xff));
  EXPECT_DEATH(block[1000] = 0, "use-after-poison");  // the block itself is larger
  allocator.release(block, 1000);
  EXPECT_DEATH(block[0] = 0, "use-after-poison");
}
#endif

// Known answers of Random123 for philox4x32-10.
TEST(Philox, GivesThePublishedNumbers) {
  EXPECT_THAT(Philox(0, uint64_t{0}).words(0), ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(Philox(~uint64_t{0}, ~uint64_t{0}).words(~uint64_t{0}), ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(Philox(0x299f31d0a4093822u, uint64_t{0x0370734413198a2e}).words(0x85a308d3243f6a88u),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

}  // namespace
}  // namespace ropewalk
