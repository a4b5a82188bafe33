// Collectives through the memory of a relay: what is special about them. What they share with messages: group_test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "kernels/tensor/allocator.h"
#include "tests/support/finite_difference.h"
#include "tests/support/ranks.h"

namespace ropewalk {
namespace {

using testing::random_tensor;
using ::testing::StrEq;
using testing::world;

constexpr DType kDTypes[] = {DType::kFloat64, DType::kFloat32, DType::kBFloat16};

Group relayed(const Group& group, int color = 0) {
  const Group part = group.split(color);
  part.open_relay();
  return part;
}

void late(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

void expect_same_bits(const Tensor& given, const Tensor& expected) {
  ASSERT_EQ(given.dtype(), expected.dtype());
  EXPECT_EQ(given.to_vector<double>(), expected.to_vector<double>());
}

// Of several times what the trays hold, and no multiple of them.
TEST(Relay, MovesLongBuffersToTheSameBitsAsMessages) {
  const Group group = relayed(world());
  for (const DType dtype : kDTypes)
    for (int dim = 0; dim < 3; ++dim) {
      const Shape shape = Shape{3, 5, 7}.with(dim, 4).with((dim + 1) % 3, 300).with((dim + 2) % 3, 1001);
      const Tensor x = random_tensor(shape, 7 + group.rank(), 1.0, dtype);
      expect_same_bits(group.all_gather(x, dim, "test"), world().all_gather(x, dim, "test"));
      expect_same_bits(group.reduce_scatter(x, dim, "test"), world().reduce_scatter(x, dim, "test"));
      expect_same_bits(group.all_reduce(x, "test"), world().all_reduce(x, "test"));
    }
}

// More chunks than there are trays go out before the last rank takes the first.
TEST(Relay, KeepsWhatHasNotBeenTaken) {
  const Group group = relayed(world());
  for (int slow = 0; slow < group.size(); ++slow) {
    Tensors gathered, sums;
    if (group.rank() == slow) late(0.05);
    for (int i = 0; i < 20; ++i) {
      gathered.push_back(group.all_gather(Tensor::full({1, 1000}, 100 * i + group.rank(), DType::kFloat64), 0, "gather"));
      sums.push_back(group.all_reduce(Tensor::full({1000}, i, DType::kFloat64), "sum"));
    }
    for (int i = 0; i < 20; ++i)
      for (int rank = 0; rank < group.size(); ++rank)
        expect_same_bits(gathered[i].select(0, rank), Tensor::full({1000}, 100 * i + rank, DType::kFloat64));
    for (int i = 0; i < 20; ++i) expect_same_bits(sums[i], Tensor::full({1000}, 4 * i, DType::kFloat64));
  }
}

// Each rank waits in another order, some for groups of two ranks first, with long buffers under way that need everyone's help.
TEST(Relay, GroupsAndOperationsMayBeWaitedForInAnyOrder) {
  const Group group = relayed(world()), pair = relayed(group, group.rank() / 2);
  const Tensor x = random_tensor({4, 300, 1001}, 3 + group.rank(), 1.0, DType::kBFloat16);
  const Tensors expected = {world().all_gather(x, 1, "test"), world().reduce_scatter(x, 0, "test"), world().all_reduce(x, "test")};
  const Tensor all = group.all_gather(x, 1, "first"), slice = group.reduce_scatter(x, 0, "second"), near = pair.all_reduce(x, "third"),
               sum = group.all_reduce(x, "fourth");
  const Tensors given = {all, slice, sum};
  if (group.rank() % 2 == 0) near.raw();
  for (int i = 0; i < 3; ++i) {
    const int turn = (i + group.rank()) % 3;
    expect_same_bits(given[turn], expected[turn]);
  }
  const Group by_messages = world().split(world().rank() / 2);
  expect_same_bits(near, by_messages.all_reduce(x, "test"));
}

TEST(Relay, CountsTheBytesThatMessagesWouldSend) {
  const Group group = relayed(world());
  const Group messages = world().split(0);
  const int64_t before = group.bytes_sent() - messages.bytes_sent();
  const Tensor x = random_tensor({4, 12, 7}, 5, 1.0, DType::kBFloat16), odd = random_tensor({1001}, 6, 1.0, DType::kFloat32);
  for (const Group& each : {group, messages}) {
    each.all_gather(x, 1, "test").raw();
    each.reduce_scatter(x, 1, "test").raw();
    each.all_reduce(x, "test").raw();
    each.all_reduce(odd, "test").raw();
  }
  EXPECT_EQ(group.bytes_sent() - messages.bytes_sent(), before);
}

TEST(Relay, IsCountedWhileItLives) {
  const int64_t before = Allocator::host().stats().in_use;
  {
    const Group group = relayed(world());
    EXPECT_EQ(Allocator::host().stats().in_use, before + (2 << 20));
  }
  EXPECT_EQ(Allocator::host().stats().in_use, before);
}

TEST(Relay, ReportsWhoDoesNotCome) {
  {
    const Group group = testing::world_with_timeout(0.5);
    group.open_relay();
    if (group.rank() != 2) {
      EXPECT_THAT(
          [&] { group.all_reduce(Tensor::zeros({8}, DType::kFloat32), "tp_leave").raw(); },
          ::testing::ThrowsMessage<CommError>(StrEq(fmt::format(
              "rank {}: all_reduce #1 \"tp_leave\", 32 bytes fp32: no answer from rank 2 after 0.5 s; gone or stalled", group.rank()))));
    }
    world().barrier("until all have given up");
  }
  world().barrier("until that group is gone");
}

TEST(Relay, TellsRanksThatDisagreeAboutACall) {
  {
    const Group group = testing::world_with_timeout(2);
    group.open_relay();
    const int64_t n = group.rank() == 3 ? 12 : 8;
    EXPECT_THROW(group.all_reduce(Tensor::zeros({n}, DType::kFloat32), "short").raw(), CommError);
    world().barrier("until all have seen it");
  }
  world().barrier("until that group is gone");
}

}  // namespace
}  // namespace ropewalk
