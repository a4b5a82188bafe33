#include "parallel/tensor_parallel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/finite_difference.h"
#include "tests/support/ranks.h"

namespace ropewalk {
namespace {

using testing::random_tensor;
using testing::relative_error;
using testing::world;

double dot(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// A value that is a piece, or whose gradient is an addend, counts on each rank; one that is equal on all ranks counts once.
enum class Counts { kOnEach, kOnce };
double total(double on_this_rank, Counts counts) { return counts == Counts::kOnEach ? world().sum(on_this_rank, "dot") : on_this_rank; }

// <A x, y> = <x, A^T y>
template <class Move>
void expect_transpose(const Move& move, const Tensor& x, Counts x_counts, Counts y_counts) {
  Tape tape;
  const Var in = tape.input(x), out = move(in);
  const Tensor y = random_tensor(out.shape(), y_counts == Counts::kOnEach ? 20 + world().rank() : 20);
  const double forward = total(dot(out.data(), y), y_counts);
  const Tensors dx = tape.backward({out}, {y});
  const double backward = total(dot(x, dx[0]), x_counts);
  EXPECT_NEAR(forward, backward, 1e-12 * std::abs(forward));
  EXPECT_GT(std::abs(forward), 1e-3);
}

TEST(TpEnter, BackwardIsItsTranspose) {
  for (const bool sequence : {false, true}) {
    const TensorParallel tp{.group = world(), .sequence = sequence};
    const Tensor x = random_tensor({2, 4, 3}, sequence ? 1 + world().rank() : 1);
    expect_transpose([&](const Var& in) { return tp_enter(in, tp); }, x, sequence ? Counts::kOnEach : Counts::kOnce, Counts::kOnEach);
  }
}

TEST(TpLeave, BackwardIsItsTranspose) {
  for (const bool sequence : {false, true}) {
    const TensorParallel tp{.group = world(), .sequence = sequence};
    const Tensor y = random_tensor({2, 8, 3}, 1 + world().rank());
    expect_transpose([&](const Var& in) { return tp_leave(in, tp); }, y, Counts::kOnEach, sequence ? Counts::kOnEach : Counts::kOnce);
  }
}

TEST(TpLeave, IsTransposeOfTpEnter) {
  const TensorParallel tp{.group = world(), .sequence = true};
  const Tensor x = random_tensor({2, 4, 3}, 1 + world().rank()), y = random_tensor({2, 16, 3}, 9 + world().rank());
  const double there = world().sum(dot(tp_enter(x, tp).data(), y), "dot"), back = world().sum(dot(x, tp_leave(y, tp).data()), "dot");
  EXPECT_NEAR(there, back, 1e-12 * std::abs(there));
}

TEST(TpEnter, GathersTokensInTheOrderOfRanks) {
  const Tensor x = Tensor::full({1, 2, 1}, world().rank(), DType::kFloat32);
  EXPECT_EQ(tp_enter(x, {.group = world(), .sequence = true}).data().to_vector<int>(), (std::vector{0, 0, 1, 1, 2, 2, 3, 3}));
  EXPECT_EQ(tp_enter(x, {.group = world(), .sequence = false}).data().to_vector<int>(), (std::vector(2, world().rank())));
}

TEST(TpLeave, SumsAddends) {
  const Tensor y = Tensor::full({1, 4, 1}, world().rank(), DType::kFloat32);
  EXPECT_EQ(tp_leave(y, {.group = world(), .sequence = true}).data().to_vector<int>(), std::vector(1, 6));
  EXPECT_EQ(tp_leave(y, {.group = world(), .sequence = false}).data().to_vector<int>(), std::vector(4, 6));
}

TEST(TpSumStatistic, BackwardIsItsTranspose) {
  expect_transpose([](const Var& s) { return tp_sum_statistic(s, world()); }, random_tensor({2, 5}, 1 + world().rank()), Counts::kOnEach,
                   Counts::kOnEach);
}

// 10 words over 4 ranks, as 4, 4, 2 and none.
constexpr int64_t kWords = 10, kRowsPerRank = 4, kScored = 6;

struct Half {
  Tensor log_sum_exp, target_logit;
};
Half half_of(int rank, const Tensor& logits, const std::vector<int64_t>& targets) {
  const Half half{Tensor::full({kScored}, -std::numeric_limits<double>::infinity(), DType::kFloat64),
                  Tensor::zeros({kScored}, DType::kFloat64)};
  const int64_t first = std::min(kWords, rank * kRowsPerRank), last = std::min(kWords, first + kRowsPerRank);
  for (int64_t t = 0; t < kScored; ++t) {
    double sum = 0;
    for (int64_t w = first; w < last; ++w) sum += std::exp(logits.data<double>()[t * kWords + w]);
    half.log_sum_exp.data<double>()[t] = std::log(sum);
    if (targets[t] >= first && targets[t] < last) half.target_logit.data<double>()[t] = logits.data<double>()[t * kWords + targets[t]];
  }
  return half;
}

TEST(TpVocabularySum, IsTheWholeVocabularysScore) {
  const Tensor logits = random_tensor({kScored, kWords}, 1, 5.0);
  const std::vector<int64_t> targets = {0, 3, 4, 7, 8, 9};
  const Half half = half_of(world().rank(), logits, targets);
  Tape tape;
  const HeadScores scores =
      tp_vocabulary_sum({tape.input(half.log_sum_exp), tape.input(half.target_logit)}, {.group = world(), .sequence = false});
  const Tensor d_sum = random_tensor({kScored}, 2), d_target = random_tensor({kScored}, 3);
  Tensor expected_sum = zeros_like(d_sum), expected_target = zeros_like(d_sum), expected_share = zeros_like(d_sum);
  for (int64_t t = 0; t < kScored; ++t) {
    double sum = 0;
    for (int64_t w = 0; w < kWords; ++w) sum += std::exp(logits.data<double>()[t * kWords + w]);
    expected_sum.data<double>()[t] = std::log(sum);
    expected_target.data<double>()[t] = logits.data<double>()[t * kWords + targets[t]];
    // A half's weight in the softmax over all words.
    expected_share.data<double>()[t] = d_sum.data<double>()[t] * std::exp(half.log_sum_exp.data<double>()[t]) / sum;
  }
  EXPECT_LT(relative_error(scores.log_sum_exp.data(), expected_sum), 1e-14);
  EXPECT_LT(relative_error(scores.target_logit.data(), expected_target), 1e-14);
  const Tensors d = tape.backward({scores.log_sum_exp, scores.target_logit}, {d_sum, d_target});
  EXPECT_LT(relative_error(d[0], expected_share), 1e-13);
  EXPECT_EQ(d[1].to_vector<double>(), d_target.to_vector<double>());
}

TEST(TensorParallel, OfOneRankMovesNothing) {
  const Var x = random_tensor({1, 2, 3}, 1);
  const TensorParallel one;
  EXPECT_EQ(tp_enter(x, one).data().storage(), x.data().storage());
  EXPECT_EQ(tp_leave(x, one).data().storage(), x.data().storage());
  EXPECT_EQ(tp_sum_statistic(x, Group()).data().storage(), x.data().storage());
}

}  // namespace
}  // namespace ropewalk
