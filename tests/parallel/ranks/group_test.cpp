#include "parallel/comm/group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
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

// What rank r puts in: every rank can compute every rank's.
Tensor input_of(int rank, const Shape& shape, DType dtype) { return random_tensor(shape, 100 + rank, 1.0, dtype); }

Tensor sum_in_rank_order(const Group& group, const Shape& shape, DType dtype) {
  const Tensor sum = input_of(0, shape, dtype).to(wide(dtype)).contiguous_copy();
  for (int rank = 1; rank < group.size(); ++rank) sum.add(input_of(rank, shape, dtype));
  return sum.to(dtype);
}

void expect_same_bits(const Tensor& given, const Tensor& expected) {
  ASSERT_EQ(given.dtype(), expected.dtype());
  ASSERT_EQ(given.shape(), expected.shape());
  EXPECT_EQ(given.to_vector<double>(), expected.to_vector<double>());
}

// As a view into something larger, which a collective has to pack.
Tensor as_view(const Tensor& x) {
  const Tensor larger = Tensor::zeros(x.shape().with(-1, x.dim(-1) + 3), x.dtype());
  const Tensor view = larger.narrow(-1, 2, x.dim(-1));
  view.copy_from(x);
  return view;
}

// By messages, and through the memory of a relay.
class Collective : public ::testing::TestWithParam<bool> {
 protected:
  static Group make() {
    const Group group = GetParam() ? world().split(0) : world();
    if (GetParam()) group.open_relay();
    return group;
  }
  const Group group = make();
};

INSTANTIATE_TEST_SUITE_P(By, Collective, ::testing::Bool(), [](const auto& info) { return info.param ? "Relay" : "Messages"; });

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

TEST_P(Collective, AllReduceAddsInTheOrderOfRanks) {
  for (const DType dtype : kDTypes)
    for (const Shape& shape : {Shape{5, 7, 11}, Shape{3}, Shape{}, Shape{2, 0}}) {
      const Tensor expected = sum_in_rank_order(group, shape, dtype);
      expect_same_bits(group.all_reduce(input_of(group.rank(), shape, dtype), "test"), expected);
      const Tensor x = input_of(group.rank(), shape, dtype).contiguous_copy();
      group.all_reduce_in_place(x, "test").wait();
      expect_same_bits(x, expected);
    }
}

TEST_P(Collective, AllReduceLeavesItsInputAlone) {
  const Shape shape{64, 9};
  const Tensor x = as_view(input_of(group.rank(), shape, DType::kFloat32));
  expect_same_bits(group.all_reduce(x, "test"), sum_in_rank_order(group, shape, DType::kFloat32));
  expect_same_bits(x, input_of(group.rank(), shape, DType::kFloat32));
}

TEST_P(Collective, AllGatherLaysTheRanksSideBySideAlongAnyDim) {
  const Shape shape{3, 4, 5};
  for (const DType dtype : kDTypes)
    for (int dim = -1; dim < 3; ++dim) {
      Tensors parts;
      for (int rank = 0; rank < group.size(); ++rank) parts.push_back(input_of(rank, shape, dtype));
      const Tensor expected = concat(parts, dim);
      expect_same_bits(group.all_gather(parts[group.rank()], dim, "test"), expected);
      expect_same_bits(group.all_gather(as_view(parts[group.rank()]), dim, "test"), expected);
    }
}

TEST_P(Collective, AllGatherMovesTokensToo) {
  const int64_t rank = group.rank();
  const Tensor all = group.all_gather(Tensor::from<int64_t>({1, 2}, {rank, -rank}), 0, "test");
  EXPECT_EQ(all.to_vector<int64_t>(), (std::vector<int64_t>{0, 0, 1, -1, 2, -2, 3, -3}));
}

TEST_P(Collective, ReduceScatterGivesEachRankItsSliceOfTheSumAlongAnyDim) {
  const Shape shape{4, 8, 12};
  for (const DType dtype : kDTypes)
    for (int dim = -1; dim < 3; ++dim) {
      const int64_t extent = shape[dim] / group.size();
      const Tensor expected = sum_in_rank_order(group, shape, dtype).narrow(dim, group.rank() * extent, extent);
      const Tensor x = input_of(group.rank(), shape, dtype);
      expect_same_bits(group.reduce_scatter(x, dim, "test"), expected);
      expect_same_bits(group.reduce_scatter(as_view(x), dim, "test"), expected);
    }
}

TEST(Group, RefusesASliceThatRanksCannotShareAlike) {
  EXPECT_THROW(world().reduce_scatter(Tensor::zeros({2, 6}, DType::kFloat32), 1, "test"), ShapeError);
}

TEST_P(Collective, ResultsMayBeReadInAnyOrder) {
  const Shape shape{200, 300};
  const Tensor x = input_of(group.rank(), shape, DType::kFloat64);
  const Tensor sum = group.all_reduce(x, "first"), slice = group.reduce_scatter(x, 0, "second"), all = group.all_gather(x, 1, "third");
  const Tensor expected = sum_in_rank_order(group, shape, DType::kFloat64);
  const auto read_sum = [&] { expect_same_bits(sum, expected); };
  const auto read_slice = [&] { expect_same_bits(slice, expected.narrow(0, group.rank() * 50, 50)); };
  const auto read_all = [&] { expect_same_bits(all.narrow(1, 900, 300), input_of(3, shape, DType::kFloat64)); };
  if (group.rank() % 2 == 0) {
    read_all();
    read_slice();
    read_sum();
  } else {
    read_sum();
    read_slice();
    read_all();
  }
}

TEST_P(Collective, KeepsTheRoundsOfCollectivesApart) {
  const Group pair = group.split(group.rank() / 2);
  const Shape shape{8};
  const Tensor x = input_of(group.rank(), shape, DType::kFloat64), y = x.contiguous_copy();
  y.add(x);
  if (group.rank() == 0) sleep_for(0.1);  // the others have begun both sums
  const Tensor sum = group.all_reduce(x, "first");
  if (group.rank() == 0) pair.barrier("on to the second round of the first");
  const Tensor twice = group.all_reduce(y, "second");
  if (group.rank() == 1) pair.barrier("on to the second round of the first");
  const Tensor expected = sum_in_rank_order(group, shape, DType::kFloat64);
  expect_same_bits(sum, expected);
  expected.add(expected);
  expect_same_bits(twice, expected);
}

TEST_P(Collective, TakesAPendingTensorAsInput) {
  const Shape shape{8, 6};
  const Tensor twice = group.all_reduce(group.all_reduce(input_of(group.rank(), shape, DType::kFloat64), "inner"), "outer");
  const Tensor expected = sum_in_rank_order(group, shape, DType::kFloat64);
  EXPECT_LT(testing::relative_error(twice.narrow(0, 0, 8),
                                    [&] {
                                      const Tensor four = expected.contiguous_copy();
                                      for (int i = 1; i < 4; ++i) four.add(expected);
                                      return four;
                                    }()),
            1e-15);
}

TEST_P(Collective, AResultThatNobodyReadsDisturbsNothing) {
  const int64_t in_use = Allocator::host().stats().in_use;
  for (int i = 0; i < 3; ++i) {
    group.all_reduce(input_of(group.rank(), {1000}, DType::kFloat32), "unread");
    group.all_gather(input_of(group.rank(), {10, 100}, DType::kFloat32), 1, "unread");
  }
  for (int i = 0; i < 20; ++i) EXPECT_EQ(group.sum(1, "after"), group.size());  // enough calls to move every message
  EXPECT_EQ(Allocator::host().stats().in_use, in_use);
}

TEST(Group, SendsArriveInOrderAndOverlapCollectives) {
  const Group& group = world();
  const int next = (group.rank() + 1) % group.size(), previous = (group.rank() + group.size() - 1) % group.size();
  for (int i = 0; i < 3; ++i) group.send(as_view(input_of(group.rank() + 10 * i, {50, 4}, DType::kBFloat16)), next, "test");
  EXPECT_EQ(group.sum(1, "between"), group.size());
  Tensors received;
  for (int i = 0; i < 3; ++i) received.push_back(group.receive({50, 4}, DType::kBFloat16, previous, "test"));
  for (int i = 2; i >= 0; --i) expect_same_bits(received[i], input_of(previous + 10 * i, {50, 4}, DType::kBFloat16));
}

TEST(Group, CutsLongTransfersIntoSeveralMessages) {
  const int64_t n = (65 << 20) / 8;  // more than one message of 64 MiB
  const int partner = world().rank() ^ 1;
  const Tensor x = Tensor::full({n}, world().rank(), DType::kFloat64);
  x.data<double>()[n - 1] = 0.5 + world().rank();
  world().send(x, partner, "long");
  const Tensor y = world().receive({n}, DType::kFloat64, partner, "long");
  EXPECT_EQ(y.data<double>()[0], partner);
  EXPECT_EQ(y.data<double>()[n - 2], partner);
  EXPECT_EQ(y.data<double>()[n - 1], 0.5 + partner);
}

// Uneven pieces, one of them empty.
TEST_P(Collective, SumsAndGathersPiecesInPlace) {
  const Shape shape{4099};
  const Cuts cuts = {0, 1000, 1000, 4000, 4099};
  const int64_t begin = cuts[group.rank()], length = cuts[group.rank() + 1] - begin;
  for (const DType dtype : kDTypes)
    for (const bool shared : {false, true}) {
      const Tensor x = shared ? group.allocate_shared(shape, dtype) : Tensor::empty(shape, dtype);
      for (int round = 0; round < 2; ++round) {
        x.copy_from(input_of(group.rank(), shape, dtype));
        group.reduce_scatter_in_place(x, cuts, "test").wait();
        const Tensor sum = sum_in_rank_order(group, shape, dtype);
        expect_same_bits(x.narrow(0, begin, length), sum.narrow(0, begin, length));
        const Tensor own = x.narrow(0, begin, length).contiguous_copy();
        x.fill(-1);
        x.narrow(0, begin, length).copy_from(own);
        group.all_gather_in_place(x, cuts, "test").wait();
        expect_same_bits(x, sum);
      }
    }
}

// Rank r sends r + s rows to rank s, each [r, s].
TEST(Group, AllToAllMovesUnevenNumbersOfRows) {
  const Group& group = world();
  const int64_t rank = group.rank();
  std::vector<int64_t> counts;
  std::vector<double> sent, expected;
  for (int64_t peer = 0; peer < group.size(); ++peer) {
    counts.push_back(rank + peer);
    for (int64_t i = 0; i < rank + peer; ++i) {
      sent.insert(sent.end(), {static_cast<double>(rank), static_cast<double>(peer)});
      expected.insert(expected.end(), {static_cast<double>(peer), static_cast<double>(rank)});
    }
  }
  const int64_t rows = std::ssize(sent) / 2;
  const Tensor given = group.all_to_all(Tensor::from<double>({rows, 2}, sent), counts, counts, "test");
  EXPECT_EQ(given.shape(), (Shape{rows, 2}));
  EXPECT_EQ(given.to_vector<double>(), expected);
}

TEST(SharedTensor, SumsInPlaceInTheOrderOfRanks) {
  for (const DType dtype : kDTypes) {
    const Shape shape{3, 4099};  // no multiple of the ranks
    const Tensor x = world().allocate_shared(shape, dtype);
    for (int round = 0; round < 3; ++round) {
      x.copy_from(input_of(world().rank(), shape, dtype));
      world().all_reduce_in_place(x, "test").wait();
      expect_same_bits(x, sum_in_rank_order(world(), shape, dtype));
    }
  }
}

TEST(SharedTensor, SumsPartsSeveralAtATimeInAnyOrderOfWaiting) {
  const Shape shape{1000};
  const Tensor x = world().allocate_shared(shape, DType::kFloat32);
  x.copy_from(input_of(world().rank(), shape, DType::kFloat32));
  Work last = world().all_reduce_in_place(x.narrow(0, 600, 400), "test");
  const Tensor between = world().all_reduce(input_of(world().rank(), shape, DType::kFloat32), "test");
  Work first = world().all_reduce_in_place(x.narrow(0, 0, 3), "test");  // shorter than there are ranks
  first.wait();
  last.wait();
  const Tensor sum = sum_in_rank_order(world(), shape, DType::kFloat32);
  expect_same_bits(x.narrow(0, 600, 400), sum.narrow(0, 600, 400));
  expect_same_bits(x.narrow(0, 0, 3), sum.narrow(0, 0, 3));
  expect_same_bits(x.narrow(0, 3, 597), input_of(world().rank(), shape, DType::kFloat32).narrow(0, 3, 597));
  expect_same_bits(between, sum);
}

// The mapping of this process that an address lies in, as the kernel describes it.
std::string mapping_of(const void* address) {
  std::ifstream maps("/proc/self/maps");
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    const size_t dash = line.find('-');
    if (std::stoull(line, nullptr, 16) <= at && at < std::stoull(line.substr(dash + 1), nullptr, 16)) return line;
  }
  return "";
}

TEST(SharedTensor, LiesInMemoryThatTheRanksShare) {
  const Tensor x = world().allocate_shared({1000}, DType::kFloat32);
  EXPECT_THAT(mapping_of(x.raw()), ::testing::HasSubstr("/dev/shm/ropewalk-"));
  world().barrier("test");
}

TEST(SharedTensor, IsCountedWhileItLives) {
  const int64_t before = Allocator::host().stats().in_use;
  {
    const Tensor x = world().allocate_shared({1 << 20}, DType::kFloat32);
    EXPECT_GE(Allocator::host().stats().in_use, before + (4 << 20));
    world().barrier("test");
  }
  EXPECT_EQ(Allocator::host().stats().in_use, before);
}

TEST(SharedTensor, ReportsWhoDoesNotCome) {
  {
    const Group group = testing::world_with_timeout(0.5);
    const Tensor x = group.allocate_shared({8}, DType::kFloat32);
    if (group.rank() != 2) {
      EXPECT_THAT(
          [&] { group.all_reduce_in_place(x, "gradients").wait(); },
          ::testing::ThrowsMessage<CommError>(StrEq(fmt::format(
              "rank {}: all_reduce #1 \"gradients\", 32 bytes fp32: no answer from rank 2 after 0.5 s; gone or stalled", group.rank()))));
    }
    world().barrier("until all have given up");
  }
  world().barrier("until that group is gone");
}

TEST(Group, HostValuesAreTheSameOnAllRanks) {
  const Group& group = world();
  const double mine = 0.1 * group.rank() - 0.2;
  EXPECT_EQ(group.gather(mine, "test"), (std::vector<double>{-0.2, 0.1 - 0.2, 0.2 - 0.2, 0.1 * 3 - 0.2}));
  EXPECT_EQ(group.sum(mine, "test"), ((-0.2 + (0.1 - 0.2)) + (0.2 - 0.2)) + (0.1 * 3 - 0.2));
  EXPECT_EQ(group.max(-mine, "test"), 0.2);
  EXPECT_TRUE(group.any(group.rank() == 2, "test"));
  EXPECT_FALSE(group.any(false, "test"));
}

TEST(Group, BroadcastsText) {
  for (int root = 0; root < world().size(); ++root)
    for (const std::string& text : {std::string("line\0two", 8), std::string()})
      EXPECT_EQ(world().broadcast(world().rank() == root ? text : "other", root), text);
}

TEST(Group, SplitsKeepTheirOrder) {
  const Group parity = world().split(world().rank() % 2);
  EXPECT_EQ(parity.size(), 2);
  EXPECT_EQ(parity.rank(), world().rank() / 2);
  EXPECT_EQ(parity.sum(world().rank(), "test"), world().rank() % 2 == 0 ? 2 : 4);
  const Group alone = world().split(world().rank());
  EXPECT_EQ(alone.size(), 1);
  EXPECT_EQ(alone.sum(3, "test"), 3);
}

TEST(Group, CountsTheBytesItSends) {
  const Group group = world().split(0);
  const Tensor x = Tensor::zeros({16, 4}, DType::kBFloat16);  // 128 bytes
  group.all_reduce(x, "test").raw();
  EXPECT_EQ(group.bytes_sent(), 2 * 3 * 128 / 4);
  group.all_gather(x, 1, "test").raw();
  EXPECT_EQ(group.bytes_sent(), 192 + 3 * 128);
  group.reduce_scatter(x, 0, "test").raw();
  EXPECT_EQ(group.bytes_sent(), 576 + 3 * 128 / 4);
}

TEST(Group, CountsIntoTheAccountItIsGivenOrThatOfTheGroupItWasSplitOff) {
  const auto account = std::make_shared<Account>(), other = std::make_shared<Account>();
  const Group group = world().split(0, account), part = group.split(world().rank() / 2), elsewhere = group.split(0, other);
  const int64_t before = account->bytes;
  const Tensor x = Tensor::zeros({16}, DType::kFloat64);  // 128 bytes
  group.all_gather(x, 0, "test").raw();
  part.all_gather(x, 0, "test").raw();
  EXPECT_EQ(account->bytes - before, (3 + 1) * 128);
  elsewhere.all_gather(x, 0, "test").raw();
  EXPECT_EQ(account->bytes - before, (3 + 1) * 128);
  EXPECT_EQ(other->bytes, 3 * 128);
}

TEST(Agree, ThrowsTheLowestRanksErrorEverywhere) {
  try {
    agree(world(), [] {
      if (world().rank() == 1) throw Error(3, "the data are wrong");
      if (world().rank() == 2) throw ShapeError("a shape is wrong");
    });
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the data are wrong");
    EXPECT_EQ(error.exit_code(), 3);
  }
  int runs = 0;
  agree(world(), [&] { ++runs; });
  EXPECT_EQ(runs, 1);
}

TEST(Agree, DoesNotTalkAfterAPeerIsGone) {
  const int64_t before = world().bytes_sent();
  EXPECT_THROW(agree(world(), [] { throw CommError("gone"); }), CommError);
  EXPECT_EQ(world().bytes_sent(), before);
}

TEST(CommError, NamesWhoDoesNotAnswerWhat) {
  {
    const Group group = testing::world_with_timeout(0.5);
    if (group.rank() == 1) {
      group.barrier("before");
      const auto call = [&] { group.all_reduce(Tensor::zeros({1 << 18}, DType::kFloat32), "tp_leave").raw(); };
      EXPECT_THAT(call,
                  ::testing::ThrowsMessage<CommError>(StrEq(
                      "rank 1: all_reduce #2 \"tp_leave\", 1.0 MiB fp32: no answer from rank 0 (last in all_gather #1 \"before\"), rank 2 "
                      "(last in all_gather #1 \"before\"), rank 3 (last in all_gather #1 \"before\") after 0.5 s; gone or stalled")));
      const auto begin = std::chrono::steady_clock::now();
      EXPECT_THROW(group.barrier("after"), CommError);  // at once, and every time
      EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(100));
    } else {
      group.barrier("before");
    }
    world().barrier("until rank 1 has given up");
  }
  world().barrier("until that group is gone");
}

TEST(CommError, NamesRanksAsTheyWereNamed) {
  {
    const Group group = testing::world_with_timeout(0.5);
    group.name_ranks({"left", "right", "far left", "far right"});
    const Group again = group.split(0);
    if (group.rank() == 0) {
      EXPECT_THAT(
          [&] { again.receive({1}, DType::kFloat64, 3, "move").raw(); },
          ::testing::ThrowsMessage<CommError>(
              StrEq("rank 0 (left): receive #1 \"move\", 8 bytes fp64: no answer from rank 3 (far right; last in all_gather #1 \"split\") "
                    "after 0.5 s; gone or stalled")));
    }
    world().barrier("until rank 0 has given up");
  }
  world().barrier("until that group is gone");
}

TEST(CommError, BlamesNobodyWhoWaitsHimself) {
  {
    const Group group = testing::world_with_timeout(0.5);
    std::string said;
    if (group.rank() < 2) {
      try {
        group.receive({1}, DType::kFloat64, 1 - group.rank(), "each other").raw();
      } catch (const CommError& error) {
        said = error.what();
      }
    }
    const bool seen_through = said.ends_with("after 1 s, nor do they get one");  // the other may hear of a rank that has given up
    EXPECT_TRUE(world().any(seen_through, "test")) << said;
  }
  world().barrier("until that group is gone");
}

TEST(CommError, IsNotThrownWhileMessagesMove) {
  {
    const Group group = testing::world_with_timeout(0.5);
    for (int i = 0; i < 4; ++i) {  // longer together than the timeout
      if (group.rank() == i) sleep_for(0.3);
      group.barrier("slow");
    }
  }
  world().barrier("until that group is gone");
}

TEST(CommError, TellsRanksThatDisagreeAboutACall) {
  {
    const Group group = testing::world_with_timeout(2);
    if (group.rank() == 0) group.send(Tensor::zeros({2}, DType::kFloat64), 1, "short");
    if (group.rank() == 1) {
      const auto call = [&] { group.receive({3}, DType::kFloat64, 0, "short").raw(); };
      EXPECT_THAT(call, ::testing::ThrowsMessage<CommError>(
                            StrEq("rank 1: receive #1 \"short\", 24 bytes fp64: expected 24 bytes from rank 0, given 16")));
    }
    world().barrier("until rank 1 has seen it");
  }
  world().barrier("until that group is gone");
}

}  // namespace
}  // namespace ropewalk
