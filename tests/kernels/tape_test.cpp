#include "kernels/autograd/tape.h"

#include <gtest/gtest.h>

#include "kernels/views/views.h"
#include "tests/support/finite_difference.h"

namespace ropewalk {
namespace {

using testing::parameter;
using testing::random_tensor;

// y = x * w elementwise, w a parameter; the weight part is deferrable.
Var scale_by(const Var& x, const Var& w) {
  Tensor y = x.data().contiguous_copy();
  for (int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] *= w.data().data<double>()[i];
  return record("scale_by", {x, w}, y, [x = x.data(), w](Backprop& b) {
    Tensor dx = b.dy(0).contiguous_copy();
    for (int64_t i = 0; i < dx.numel(); ++i) dx.data<double>()[i] *= w.data().data<double>()[i];
    b.give(0, dx);
    b.later([x, w, dy = b.dy(0)](Backprop& later) {
      Tensor& sum = later.sum_into(w);
      for (int64_t i = 0; i < sum.numel(); ++i) sum.data<double>()[i] += dy.data<double>()[i] * x.data<double>()[i];
    });
  });
}

Var plus(const Var& a, const Var& b) {
  Tensor y = a.data().contiguous_copy();
  y.add(b.data());
  return record("plus", {a, b}, y, [](Backprop& back) {
    back.give(0, back.dy(0));
    back.give(1, back.dy(0));
  });
}

TEST(Tape, AddsGradientsOfSeveralUses) {
  testing::expect_gradients({{"x", random_tensor({5}, 1)}, {"w", random_tensor({5}, 2), testing::Argument::kParameter}},
                            [](const Vars& in) {
                              const Var y = scale_by(in[0], in[1]);
                              return Vars{plus(plus(y, in[0]), scale_by(y, in[1]))};
                            });
}

TEST(Tape, ReplayedSegmentGivesTheSameGradientsAndKeepsWhatItReceived) {
  const Tensor start = random_tensor({7}, 3);
  int received = 0;
  const auto run = [&](Recompute policy) {
    Tape tape;
    const Var w = parameter("w", random_tensor({7}, 4));
    const auto body = [&](const Vars& in, Pass& pass) {
      const Tensor extra = pass.once([&] { return Tensors{random_tensor({7}, ++received)}; }).front();
      return Vars{scale_by(plus(in[0], extra), w), in[0]};
    };
    received = 10;
    const Vars out = Tape::segment({}, {tape.input(start)}, body, policy);
    const Tensor dx = tape.backward(out, {random_tensor({7}, 5), random_tensor({7}, 6)}).front();
    return Tensors{dx, w.leaf()->grad};
  };
  const Tensors kept = run(Recompute::kNone), replayed = run(Recompute::kFull);
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(testing::relative_error(replayed[i], kept[i]), 0);
  EXPECT_EQ(received, 11);
}

TEST(Tape, DeferredWeightPartsRunLaterAndCountAsContributions) {
  for (const Recompute policy : {Recompute::kNone, Recompute::kFull}) {
    Tape tape;
    const Var w = parameter("w", random_tensor({3}, 1));
    int contributions = 0;
    w.leaf()->on_contribution = [&] { ++contributions; };
    tape.defer_weight_parts(true);
    const Vars out = Tape::segment(
        {}, {tape.input(random_tensor({3}, 2))}, [&](const Vars& in, Pass&) { return Vars{scale_by(in[0], w)}; }, policy);
    tape.backward(out, {random_tensor({3}, 3)});
    EXPECT_EQ(contributions, 0);
    EXPECT_EQ(testing::relative_error(w.leaf()->grad, Tensor::zeros({3}, DType::kFloat64)), 0);
    tape.run_deferred();
    EXPECT_EQ(contributions, 1);
    EXPECT_NE(testing::relative_error(w.leaf()->grad, Tensor::zeros({3}, DType::kFloat64)), 0);
  }
}

// plus gives one tensor to both of its inputs: x's sum begins with what scale_by's weight part still has to read.
TEST(Tape, DoesNotAddToAGradientThatAWeightPartKeeps) {
  for (const bool defer : {false, true}) {
    const Tensor start = random_tensor({3}, 1), factor = random_tensor({3}, 2), seed = random_tensor({3}, 3);
    Tape tape;
    const Var x = tape.input(start), w = parameter("w", random_tensor({3}, 4));
    tape.defer_weight_parts(defer);
    tape.backward({scale_by(plus(scale_by(x, w), x), parameter("factor", factor))}, {seed});
    tape.run_deferred();
    for (int64_t i = 0; i < 3; ++i)
      EXPECT_DOUBLE_EQ(w.leaf()->grad.data<double>()[i], seed.data<double>()[i] * factor.data<double>()[i] * start.data<double>()[i]);
  }
}

// y = 2x, whose gradient is computed where backward has room for it. Says where that was.
Var twice(const Var& x, std::vector<Tensor>& rooms) {
  Tensor y = x.data().contiguous_copy();
  y.add(x.data());
  return record("twice", {x}, y, [x = x.data(), &rooms](Backprop& b) {
    const Tensor dx = rooms.emplace_back(b.room(0, x));
    dx.copy_from(b.dy(0));
    dx.add(b.dy(0));
    b.give(0, dx);
  });
}

TEST(Tape, PartsComputeTheirGradientsInPlace) {
  Tape tape;
  std::vector<Tensor> rooms;
  const Vars parts = split_last(tape.input(random_tensor({3, 5}, 1)), {2, 3});
  const Var first = twice(parts[0], rooms), second = merge_heads(twice(split_heads(parts[1], 1), rooms));
  const Tensor dx =
      tape.backward({first, second}, {Tensor::full({3, 2}, 1, DType::kFloat64), Tensor::full({3, 3}, 2, DType::kFloat64)}).front();
  EXPECT_EQ(dx.to_vector<double>(), (std::vector<double>{2, 2, 4, 4, 4, 2, 2, 4, 4, 4, 2, 2, 4, 4, 4}));
  for (const Tensor& room : rooms) EXPECT_EQ(room.storage(), dx.storage());
}

TEST(Tape, OnlyTheFirstUseOfAPartComputesInItsPlace) {
  testing::expect_gradients({{"x", random_tensor({3, 5}, 1)}}, [](const Vars& in) {
    static std::vector<Tensor> rooms;
    const Vars parts = split_last(in[0], {2, 3}), inner = split_last(parts[1], {1, 2});
    return Vars{plus(twice(parts[0], rooms), plus(twice(parts[0], rooms), parts[0])), twice(inner[1], rooms), twice(parts[1], rooms)};
  });
}

// y = 3x, which adds to what x has been given.
Var thrice(const Var& x) {
  Tensor y = x.data().contiguous_copy();
  for (int i = 0; i < 2; ++i) y.add(x.data());
  return record("thrice", {x}, y, [](Backprop& b) {
    const Tensor sum = b.take(0), dx = sum ? sum : zeros_like(b.dy(0));
    for (int i = 0; i < 3; ++i) dx.add(b.dy(0));
    b.give(0, dx);
  });
}

TEST(Tape, LetsARuleAddToWhatItsInputWasGiven) {
  testing::expect_gradients({{"x", random_tensor({2, 5}, 1)}, {"w", random_tensor({2, 5}, 2), testing::Argument::kParameter}},
                            [](const Vars& in) {
                              const Var y = scale_by(in[0], in[1]), part = split_last(y, {2, 3})[1];
                              return Vars{plus(plus(thrice(y), thrice(y)), y), plus(thrice(part), part), y};
                            });
}

TEST(Tape, HooksRunAroundForwardAndBackward) {
  for (const Recompute policy : {Recompute::kNone, Recompute::kFull}) {
    std::string story;
    const SegmentHooks hooks{[&] { story += "f("; }, [&] { story += ")f "; }, [&] { story += "b("; }, [&] { story += ")b"; }};
    Tape tape;
    const Vars out = Tape::segment(
        hooks, {tape.input(random_tensor({2}, 1))},
        [&](const Vars& in, Pass&) {
          story += "x";
          return Vars{plus(in[0], in[0])};
        },
        policy);
    tape.backward(out, {random_tensor({2}, 2)});
    EXPECT_EQ(story, policy == Recompute::kNone ? "f(x)f b()b" : "f(x)f b(x)b");
  }
}

TEST(Tape, WithoutATapeNothingIsRecorded) {
  const Var y = scale_by(Var(random_tensor({2}, 1)), parameter("w", random_tensor({2}, 2)));
  EXPECT_EQ(y.tape(), nullptr);
  EXPECT_FALSE(y.wants_gradient());
}

TEST(Tape, UnusedOpStillCountsItsContribution) {
  Tape tape;
  const Var w = parameter("w", random_tensor({2}, 1));
  int contributions = 0;
  w.leaf()->on_contribution = [&] { ++contributions; };
  const Var x = tape.input(random_tensor({2}, 2));
  scale_by(x, w);
  tape.backward({x}, {random_tensor({2}, 3)});
  EXPECT_EQ(contributions, 1);
}

}  // namespace
}  // namespace ropewalk
