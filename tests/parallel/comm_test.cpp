// A job of one rank. tests/parallel/ranks has groups of several.
#include <gtest/gtest.h>

#include "parallel/comm/mpi/mpi_transport.h"
#include "parallel/mesh.h"
#include "tests/support/finite_difference.h"

namespace ropewalk {
namespace {

TEST(MpiSession, IsOneRankWithoutALauncher) {
  const MpiSession session(nullptr, nullptr);
  const Group world = session.world(1);
  EXPECT_EQ(world.size(), 1);
  EXPECT_EQ(world.rank(), 0);
  EXPECT_EQ(world.split(3).size(), 1);
  EXPECT_EQ(Mesh(world, {}).tokens().size(), 1);
}

TEST(Group, OfOneRankMovesNothing) {
  const Group one;
  const Tensor x = testing::random_tensor({2, 3}, 1);
  EXPECT_EQ(one.all_reduce(x, "test").storage(), x.storage());
  EXPECT_EQ(one.all_gather(x, 1, "test").storage(), x.storage());
  EXPECT_EQ(one.reduce_scatter(x, 1, "test").storage(), x.storage());
  one.all_reduce_in_place(x, "test").wait();
  EXPECT_EQ(one.sum(0.1, "test"), 0.1);
  EXPECT_EQ(one.max(-0.1, "test"), -0.1);
  EXPECT_TRUE(one.any(true, "test"));
  EXPECT_EQ(one.gather(2, "test"), std::vector<double>{2});
  EXPECT_EQ(one.broadcast("text"), "text");
  EXPECT_EQ(one.bytes_sent(), 0);
}

TEST(Agree, PassesOneRanksErrorOn) {
  EXPECT_THROW(agree(Group(), [] { throw ShapeError("wrong"); }), ShapeError);
}

}  // namespace
}  // namespace ropewalk
