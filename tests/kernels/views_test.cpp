#include "kernels/views/views.h"

#include <gmock/gmock.h>

#include "tests/reference/views.h"
#include "tests/support/slices.h"

namespace ropewalk {
namespace {

using testing::expect_gradients;
using testing::random_slice;
using testing::random_tensor;

TEST(SplitLast, GivesViewsOfTheParts) {
  const Tensor x = random_slice({2, 3, 7}, 1);
  const Vars parts = split_last(Var(x), {1, 4, 0, 2});
  ASSERT_EQ(parts.size(), 4u);
  const std::vector<double> whole = x.to_vector<double>();
  for (const auto& [part, begin, length] : {std::tuple{0, 0, 1}, {1, 1, 4}, {2, 5, 0}, {3, 5, 2}}) {
    EXPECT_EQ(parts[part].shape(), (Shape{2, 3, length}));
    EXPECT_EQ(parts[part].data().to_vector<double>(), reference::columns(whole, 7, begin, length));
    EXPECT_EQ(parts[part].data().storage(), x.storage());
  }
}

TEST(SplitLast, BackwardWritesOneDenseGradientWithZerosForUnusedParts) {
  Tape tape;
  const Var x = tape.input(random_slice({2, 7}, 1));
  const Vars parts = split_last(x, {1, 4, 2});
  const Tensor dy0 = Tensor::full({2, 1}, 3, DType::kFloat64), dy2 = Tensor::full({2, 2}, 5, DType::kFloat64);
  const Tensor dx = tape.backward({parts[0], parts[2]}, {dy0, dy2}).front();
  EXPECT_TRUE(dx.contiguous());
  EXPECT_THAT(dx.to_vector<double>(), ::testing::ElementsAre(3, 0, 0, 0, 0, 5, 5, 3, 0, 0, 0, 0, 5, 5));
}

TEST(SplitLast, BackwardMatchesFiniteDifferences) {
  expect_gradients({{"x", random_slice({2, 3, 7}, 1)}}, [](const Vars& in) {
    const Vars parts = split_last(in[0], {1, 4, 2});
    return Vars{parts[2], parts[0], parts[0]};
  });
}

TEST(SplitLast, NamesWidthsThatDoNotFit) {
  EXPECT_THAT(
      [] {
        split_last(Var(random_tensor({2, 7}, 1)), {3, 3});
      },
      ::testing::ThrowsMessage<ShapeError>("split_last: widths: expected a sum of 7 (last dim of x [2, 7]), given 6"));
}

TEST(ConcatLast, IsTheInverseOfSplitLast) {
  const Tensor x = random_slice({2, 3, 7}, 1);
  const Var y = concat_last(split_last(Var(x), {1, 4, 0, 2}));
  EXPECT_EQ(y.data().to_vector<double>(), x.to_vector<double>());
}

TEST(ConcatLast, BackwardMatchesFiniteDifferences) {
  expect_gradients({{"a", random_slice({3, 2}, 1)}, {"b", random_tensor({3, 1}, 2)}, {"c", random_slice({3, 4}, 3)}}, [](const Vars& in) {
    return Vars{concat_last({in[0], in[1], in[2], in[0]})};
  });
}

TEST(ConcatLast, NamesPartsThatDoNotFit) {
  EXPECT_THAT(([] {
                concat_last({Var(random_tensor({2, 7}, 1)), Var(random_tensor({3, 7}, 1))});
              }),
              ::testing::ThrowsMessage<ShapeError>("concat_last: expected fp64 [2, 7] up to the last dim, given fp64 [3, 7]"));
}

TEST(SplitHeads, KeepsTheViewAndMergeHeadsUndoesIt) {
  const Tensor x = random_slice({2, 3, 8}, 1);
  const Var heads = split_heads(Var(x), 4);
  EXPECT_EQ(heads.shape(), (Shape{2, 3, 2, 4}));
  EXPECT_EQ(heads.data().storage(), x.storage());
  const Var merged = merge_heads(heads);
  EXPECT_EQ(merged.shape(), x.shape());
  EXPECT_EQ(merged.data().storage(), x.storage());
  EXPECT_EQ(merged.data().to_vector<double>(), x.to_vector<double>());
}

TEST(MergeHeads, CopiesWhereNoViewExists) {
  const Tensor heads = random_tensor({2, 3, 5, 4}, 1).narrow(2, 1, 3).narrow(3, 0, 2);
  const Var merged = merge_heads(Var(heads));
  EXPECT_EQ(merged.shape(), (Shape{2, 3, 6}));
  EXPECT_NE(merged.data().storage(), heads.storage());
  EXPECT_EQ(merged.data().to_vector<double>(), heads.to_vector<double>());
}

TEST(Heads, BackwardMatchesFiniteDifferences) {
  for (const int64_t width : {1, 2, 6})
    expect_gradients({{"x", random_slice({2, 3, 6}, 1)}}, [&](const Vars& in) {
      const Var heads = split_heads(in[0], width);
      return Vars{heads, merge_heads(heads)};
    });
  // A gradient whose heads do not stand side by side.
  expect_gradients({{"x", random_slice({3, 6}, 1)}}, [](const Vars& in) {
    const Var heads = split_heads(in[0], 3);
    return Vars{merge_heads(concat_last({heads, heads}))};
  });
}

TEST(Views, TakeEmptyTensors) {
  Tape tape;
  const Vars parts = split_last(tape.input(Tensor::zeros({0, 6}, DType::kFloat32)), {2, 4});
  const Var y = concat_last({merge_heads(split_heads(parts[1], 2)), parts[0]});
  EXPECT_EQ(y.shape(), (Shape{0, 6}));
  EXPECT_EQ(tape.backward({y}, {zeros_like(y.data())}).front().shape(), (Shape{0, 6}));
}

}  // namespace
}  // namespace ropewalk
