#include "parallel/parameter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "parallel/parameter_store.h"

namespace ropewalk {
namespace {

// Begins and lengths on each rank.
std::vector<std::pair<int64_t, int64_t>> ranges(int64_t extent, int64_t blocks, int ranks) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (int rank = 0; rank < ranks; ++rank) {
    const Range range = local_range(extent, Split{0, blocks}, rank, ranks);
    all.emplace_back(range.begin, range.length);
  }
  return all;
}
using Ranges = std::vector<std::pair<int64_t, int64_t>>;

TEST(LocalRange, DealsWholeBlocks) { EXPECT_EQ(ranges(32, 8, 4), (Ranges{{0, 8}, {8, 8}, {16, 8}, {24, 8}})); }
TEST(LocalRange, GivesTheLastRanksFewerRows) { EXPECT_EQ(ranges(13, 13, 4), (Ranges{{0, 4}, {4, 4}, {8, 4}, {12, 1}})); }
TEST(LocalRange, MayLeaveTheLastRankNothing) { EXPECT_EQ(ranges(5, 5, 4), (Ranges{{0, 2}, {2, 2}, {4, 1}, {5, 0}})); }
TEST(LocalRange, ReplicatesBlocksWhenThereAreMoreRanks) {
  EXPECT_EQ(ranges(6, 2, 4), (Ranges{{0, 3}, {0, 3}, {3, 3}, {3, 3}}));
  EXPECT_EQ(replicas(Split{0, 2}, 4), 2);
  EXPECT_EQ(replicas(Split{0, 4}, 4), 1);
}

// Of one of `of` parameters of two blocks each.
Ranges ranges_of_one(int64_t extent, int64_t at, int64_t of, int ranks) {
  Ranges all;
  for (int rank = 0; rank < ranks; ++rank) {
    const Range range = local_range(extent, Split{0, 2, at, of}, rank, ranks);
    all.emplace_back(range.begin, range.length);
  }
  return all;
}

TEST(LocalRange, CutsParametersAsIfTheyStoodSideBySide) {
  EXPECT_EQ(ranges_of_one(6, 1, 2, 2), (Ranges{{0, 0}, {0, 6}}));
  EXPECT_EQ(ranges_of_one(6, 1, 4, 2), (Ranges{{0, 6}, {6, 0}}));
  EXPECT_EQ(ranges_of_one(6, 1, 2, 4), (Ranges{{0, 0}, {0, 0}, {0, 3}, {3, 3}}));
  EXPECT_EQ(ranges_of_one(6, 0, 2, 8), (Ranges{{0, 3}, {0, 3}, {3, 3}, {3, 3}, {6, 0}, {6, 0}, {6, 0}, {6, 0}}));
  EXPECT_EQ(replicas(Split{0, 2, 0, 2}, 8), 2);
}

TEST(Declarations, CountUsesByStageAndShareOneLeaf) {
  Declarations declarations(false);
  const ParameterSpec spec{.name = "w", .shape = {2, 3}, .split = {}};
  const Var first = declarations.declare(spec);
  declarations.declare(spec);
  declarations.enter_stage(2);
  const Var again = declarations.declare(spec);
  EXPECT_EQ(first.leaf(), again.leaf());
  ASSERT_EQ(declarations.all().size(), 1u);
  EXPECT_EQ(declarations.all()[0]->uses, (std::map<int, int>{{0, 2}, {2, 1}}));
}

Tensor initial(const Init& init, const Shape& shape, uint64_t seed = 1) {
  Declarations declarations(false);
  const Var w = declarations.declare(ParameterSpec{.name = "w", .shape = shape, .init = init, .split = {}});
  const ParameterStore store(declarations, Mesh(), {.compute = DType::kFloat64, .seed = seed});
  return w.data();
}

TEST(ParameterStore, DrawsInitialValuesOfEachKind) {
  const auto in = [](const Init& init, double low, double high) {
    for (const double value : initial(init, {50, 20}).to_vector<double>()) {
      EXPECT_GE(value, low);
      EXPECT_LE(value, high);
    }
  };
  in({Init::kConstant, 3}, 3, 3);
  in({Init::kUniform, -2, 5}, -2, 5);
  in({Init::kLogOfUniform, 1, 16}, 0, std::log(16));
  in({Init::kInverseSoftplus, 1e-3, 1e-1}, std::log(std::expm1(1e-3)), std::log(std::expm1(1e-1)));
  double square = 0;
  for (const double value : initial({Init::kNormal, 0.5}, {50, 20}).to_vector<double>()) square += value * value;
  EXPECT_NEAR(std::sqrt(square / 1000), 0.5, 0.05);
}

TEST(ParameterStore, PutsFusedPartsOneBehindTheOtherWithTheirOwnNumbers) {
  Declarations fused_declarations(false), alone_declarations(false);
  const ParameterSpec a{.name = "p.a", .shape = {2, 3}, .init = {Init::kNormal, 1}, .split = {}};
  const ParameterSpec b{.name = "p.b", .shape = {4, 3}, .init = {Init::kNormal, 1}, .split = {}};
  const Var fused = fused_declarations.declare("p", {a, b}), alone = alone_declarations.declare(b);
  const ParameterStore fused_store(fused_declarations, Mesh(), {}), alone_store(alone_declarations, Mesh(), {});
  EXPECT_EQ(fused.shape(), (Shape{6, 3}));
  EXPECT_EQ(fused.data().narrow(0, 2, 4).to_vector<float>(), alone.data().to_vector<float>());
}

TEST(ParameterStore, KeepsARoundedWorkingCopyInBf16ButNotOfWhatIsReadWide) {
  Declarations declarations(false);
  const Var w = declarations.declare(ParameterSpec{.name = "w", .shape = {8}, .init = {Init::kNormal, 1}, .split = {}});
  const Var norm =
      declarations.declare(ParameterSpec{.name = "n", .shape = {8}, .role = Role::kNorm, .init = {Init::kNormal, 1}, .split = {}});
  const ParameterStore store(declarations, Mesh(), {.compute = DType::kBFloat16});
  EXPECT_EQ(w.dtype(), DType::kBFloat16);
  EXPECT_EQ(norm.dtype(), DType::kFloat32);
  EXPECT_EQ(w.leaf()->grad.dtype(), DType::kFloat32);
  const auto part_of_w = std::find_if(store.parts().begin(), store.parts().end(), [](const auto& part) { return part.spec.name == "w"; });
  const auto rounded = w.data().to_vector<float>(), master = store.master(*part_of_w).to_vector<float>();
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(rounded[i], static_cast<float>(bfloat16(master[i])));
}

}  // namespace
}  // namespace ropewalk
