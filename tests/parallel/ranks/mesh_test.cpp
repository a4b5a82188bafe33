#include "parallel/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/ranks.h"

namespace ropewalk {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using testing::world;

std::vector<double> members(const Group& group) { return group.gather(world().rank(), "members"); }

TEST(Mesh, LetsTensorVaryFastestAndPipelineSlowest) {
  const Mesh mesh(world(), {.pipeline = 2, .data = 1, .context = 1, .tensor = 2});
  const int rank = world().rank();
  EXPECT_EQ(mesh.coordinate(Axis::kTensor), rank % 2);
  EXPECT_EQ(mesh.coordinate(Axis::kPipeline), rank / 2);
  EXPECT_EQ(members(mesh.tensor()), (rank < 2 ? std::vector<double>{0, 1} : std::vector<double>{2, 3}));
  EXPECT_EQ(members(mesh.pipeline()), (rank % 2 == 0 ? std::vector<double>{0, 2} : std::vector<double>{1, 3}));
  EXPECT_EQ(mesh.data().size(), 1);
  EXPECT_EQ(mesh.tokens().size(), 1);
  EXPECT_EQ(mesh.coordinates(), fmt::format("pipeline {}, data 0, context 0, tensor {}", rank / 2, rank % 2));
}

TEST(Mesh, JoinsDataAndContextToTheGroupOfEqualWeights) {
  const Mesh mesh(world(), {.pipeline = 1, .data = 2, .context = 2, .tensor = 1});
  EXPECT_EQ(members(mesh.tokens()), (std::vector<double>{0, 1, 2, 3}));
  EXPECT_EQ(mesh.coordinate(Axis::kContext), world().rank() % 2);
  EXPECT_EQ(mesh.coordinate(Axis::kData), world().rank() / 2);
  EXPECT_EQ(mesh.size(Axis::kData), 2);
}

TEST(Mesh, CutsAnyGroup) {
  const Mesh mesh(world().split(world().rank() % 2), {.pipeline = 1, .data = 1, .context = 2, .tensor = 1});
  EXPECT_EQ(members(mesh.context()), (world().rank() % 2 == 0 ? std::vector<double>{0, 2} : std::vector<double>{1, 3}));
  EXPECT_EQ(mesh.coordinate(Axis::kContext), world().rank() / 2);
}

TEST(Mesh, RefusesDegreesThatDoNotMakeUpTheRanks) {
  EXPECT_THAT([] { Mesh(world(), {.pipeline = 1, .data = 3, .context = 1, .tensor = 1}); },
              ThrowsMessage<ShapeError>(HasSubstr("pipeline 1 x data 3 x context 1 x tensor 1 is 3 ranks, given 4")));
}

}  // namespace
}  // namespace ropewalk
