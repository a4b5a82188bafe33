#include "kernels/router/router.h"

#include <gmock/gmock.h>

#include <array>

#include "kernels/sinkhorn/sinkhorn.h"
#include "tests/reference/router.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using reference::Numbers;
using reference::Routed;
using testing::Argument;
using testing::random_slice;
using testing::random_tensor;

struct Case {
  RouterOptions options;
  int64_t experts;
};

std::vector<Case> cases() {
  using enum RouterType;
  return {
      {{.type = kSoftmaxTopk, .top_k = 1}, 1},
      {{.type = kSoftmaxTopk, .top_k = 2}, 5},
      {{.type = kSoftmaxTopk, .top_k = 5, .scale = 1.5}, 5},
      {{.type = kSoftmaxTopk, .top_k = 10, .renorm = true}, 67},
      {{.type = kSoftmaxTopk, .top_k = 1, .renorm = true, .scale = 2}, 3},
      {{.type = kTopkSoftmax, .top_k = 1}, 4},
      {{.type = kTopkSoftmax, .top_k = 3, .scale = 0.5}, 9},
      {{.type = kSigmoidBias, .top_k = 1}, 1},
      {{.type = kSigmoidBias, .top_k = 3, .scale = 2.5}, 7},
      {{.type = kSigmoidBias, .top_k = 3, .groups = 4, .top_groups = 2}, 12},
      {{.type = kSigmoidBias, .top_k = 2, .groups = 6, .top_groups = 2}, 6},
      {{.type = kSigmoidTop1, .top_k = 1}, 5},
      {{.type = kSigmoidTop1, .top_k = 1, .scale = 3}, 33},
  };
}

Tensor bias_for(const Case& c, DType dtype = DType::kFloat64) {
  return c.options.type == RouterType::kSigmoidBias ? random_tensor({c.experts}, 99, 0.5, dtype) : Tensor();
}

Numbers token(const Tensor& x, int64_t i) { return x.reshape({x.numel() / x.dim(-1), x.dim(-1)}).select(0, i).to_vector<double>(); }

Routed definition(const Case& c, const Numbers& logits) {
  const RouterOptions& o = c.options;
  switch (o.type) {
    case RouterType::kSoftmaxTopk: return reference::softmax_topk(logits, o.top_k, o.renorm, o.scale);
    case RouterType::kTopkSoftmax: return reference::topk_softmax(logits, o.top_k, o.scale);
    case RouterType::kSigmoidBias:
      return reference::sigmoid_bias(logits, bias_for(c).to_vector<double>(), o.top_k, o.groups, o.top_groups, o.scale);
    case RouterType::kSigmoidTop1: break;
  }
  const int64_t best = reference::top(logits, 1)[0];
  return {{best}, {o.scale * reference::sigmoid(logits[best])}};
}

Routing run(const Case& c, const Var& logits) {
  const Tensor bias = bias_for(c, logits.dtype());
  return route(logits, c.options, bias ? bias.to(logits.data().device()) : bias, {});
}

TEST(Route, MatchesTheDefinitionOfEachRouter) {
  for (const Case& c : cases()) {
    const Tensor logits = random_slice({2, 23, c.experts}, 1, 3.0);
    const Routing given = run(c, logits);
    for (int64_t t = 0; t < 46; ++t) {
      const Routed expected = definition(c, token(logits.packed(), t));
      const Numbers weight = token(given.weight.data(), t);
      EXPECT_EQ(given.expert.reshape({46, c.options.top_k}).select(0, t).to_vector<int64_t>(), expected.expert);
      for (size_t j = 0; j < weight.size(); ++j) EXPECT_NEAR(weight[j], expected.weight[j], 1e-14);
    }
  }
}

TEST(Route, BackwardMatchesFiniteDifferences) {
  for (const Case& c : cases())
    testing::expect_gradients({{"logits", random_slice({1, 7, c.experts}, 2, 2.0)}},
                              [&](const Vars& in) { return Vars{run(c, in[0]).weight}; });
}

TEST(Route, TakesTheLowestIndexAmongEquals) {
  for (const Device device : testing::devices())
    for (Case c : cases()) {
      const Tensor logits = Tensor::full({1, 2, c.experts}, 0.25, DType::kFloat32, device);
      const Tensor bias = c.options.type == RouterType::kSigmoidBias ? Tensor::zeros({c.experts}, DType::kFloat32, device) : Tensor();
      const Tensor expert = route(logits, c.options, bias, {}).expert;
      for (int64_t slot = 0; slot < c.options.top_k; ++slot) EXPECT_EQ(expert.to_vector<int64_t>()[slot], slot);
    }
}

TEST(Route, ChoosesDistinctExpertsWhateverTheLogits) {
  const double nan = std::nan(""), infinite = INFINITY;
  for (const Device device : testing::devices())
    for (const double value : {nan, infinite, -infinite})
      for (const Case& c : cases()) {
        const Tensor logits = random_tensor({1, c.experts}, 3, 1, DType::kFloat32).to(device);
        logits.narrow(1, 0, (c.experts + 1) / 2).fill(value);
        std::vector<int64_t> expert = run(c, logits).expert.to_vector<int64_t>();
        std::sort(expert.begin(), expert.end());
        EXPECT_TRUE(std::adjacent_find(expert.begin(), expert.end()) == expert.end());
        EXPECT_TRUE(expert.front() >= 0 && expert.back() < c.experts);
      }
}

TEST(Route, WeighsWhatIsAssigned) {
  const Tensor logits = random_tensor({1, 3, 4}, 1), assigned = Tensor::from<int64_t>({1, 3, 1}, {3, 0, 1});
  const RouterOptions options{.type = RouterType::kSigmoidTop1};
  const Routing routing = route(logits, options, {}, assigned);
  EXPECT_EQ(routing.expert.to_vector<int64_t>(), assigned.to_vector<int64_t>());
  for (int64_t t = 0; t < 3; ++t)
    EXPECT_NEAR(routing.weight.data().to_vector<double>()[t], reference::sigmoid(token(logits, t)[assigned.to_vector<int64_t>()[t]]),
                1e-15);
  const auto weights = [&](const Vars& in) { return Vars{route(in[0], options, {}, assigned.to(in[0].data().device())).weight}; };
  testing::expect_gradients({{"logits", logits}}, weights);
  testing::expect_precision({{"logits", logits.to(DType::kFloat32)}}, weights, 1e-5, 1e-5);
}

TEST(Route, ChoosesTheSameExpertsInFp32AsInFp64) {
  for (const Device device : testing::devices())
    for (const Case& c : cases()) {
      const Tensor logits = random_tensor({2, 23, c.experts}, 1, 3.0, DType::kFloat32);
      EXPECT_EQ(run(c, logits.to(device)).expert.to_vector<int64_t>(), run(c, logits.to(DType::kFloat64)).expert.to_vector<int64_t>());
    }
}

// Whether the weights depend on the logits at all: what is normalised over one expert does not.
bool varies(const Case& c) {
  if (c.options.type == RouterType::kSigmoidTop1) return true;
  const bool over_all = c.options.type == RouterType::kSoftmaxTopk && !c.options.renorm;
  return (over_all ? c.experts : c.options.top_k) > 1;
}

TEST(Route, Fp32MatchesFp64) {
  for (const Case& c : cases()) {
    if (!varies(c)) continue;
    testing::expect_precision(
        {{"logits", random_tensor({2, 50, c.experts}, 1, 4.0, DType::kFloat32)}},
        [&](const Vars& in) { return Vars{run(c, in[0]).weight}; }, 1e-5, 1e-5);
  }
}

TEST(Route, GivesTheSameBitsOnOneAndTwoThreads) {
  for (const Case& c : cases()) {
    const Tensor logits = random_tensor({4, 3000, c.experts}, 1, 4.0, DType::kFloat32);
    testing::expect_same_bits_on_one_and_two_threads([&] {
      const auto trace = testing::trace({{"logits", logits}}, [&](const Vars& in) { return Vars{run(c, in[0]).weight}; });
      return trace.all();
    });
  }
}

TEST(Route, NamesWhatDoesNotFit) {
  const Tensor logits = random_tensor({2, 4}, 1), none;
  const auto message = [&](const RouterOptions& options) {
    try {
      route(logits, options, options.type == RouterType::kSigmoidBias ? random_tensor({4}, 1) : none, {});
    } catch (const ShapeError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message({.top_k = 5}), "route: top_k: expected 1 to 4 (experts), given 5");
  EXPECT_EQ(message({.type = RouterType::kSigmoidBias, .top_k = 1, .groups = 3}),
            "route: groups: expected a divisor of 4 experts, given 3");
  EXPECT_EQ(message({.type = RouterType::kSigmoidBias, .top_k = 3, .groups = 2, .top_groups = 1}),
            "route: top_groups: expected at most 2 groups that hold 3 experts or more, given 1");
  EXPECT_EQ(message({.type = RouterType::kSigmoidTop1, .top_k = 2}), "route: top_k: expected 1, given 2");
}

// ---- losses

struct LossCase {
  RouterType type;
  int64_t top_k;
  double balance, z;
};

const std::vector<LossCase> kLosses = {{RouterType::kSoftmaxTopk, 2, 0.3, 0},
                                       {RouterType::kTopkSoftmax, 3, 0.3, 0.7},
                                       {RouterType::kSigmoidBias, 2, 0.3, 0.2},
                                       {RouterType::kSigmoidTop1, 1, 0, 0.7}};

Routing route_for(const LossCase& c, const Tensor& logits) {
  const Tensor bias = c.type == RouterType::kSigmoidBias ? Tensor::zeros({logits.dim(-1)}, logits.dtype()) : Tensor();
  return route(logits, {.type = c.type, .top_k = c.top_k}, bias, {});
}

TEST(RouterLoss, MatchesTheDefinitionSummedOverRows) {
  for (const LossCase& c : kLosses) {
    const Tensor logits = random_slice({3, 11, 5}, 4, 3.0);
    const Tensor expert = route_for(c, logits).expert;
    double expected = 0;
    for (int64_t row = 0; row < 3; ++row) {
      std::vector<Numbers> tokens;
      for (int64_t t = 0; t < 11; ++t) tokens.push_back(logits.select(0, row).select(0, t).to_vector<double>());
      const bool sigmoids = c.type == RouterType::kSigmoidBias || c.type == RouterType::kSigmoidTop1;
      expected += reference::router_loss(tokens, expert.select(0, row).to_vector<int64_t>(), sigmoids, c.balance, c.z);
    }
    const Var loss = router_loss(logits, expert_loads(expert, 5), {.type = c.type, .tokens = 11, .balance = c.balance, .z = c.z});
    EXPECT_NEAR(loss.data().item(), expected, 1e-13);
  }
}

TEST(RouterLoss, IsItsCoefficientWhereTheLoadIsEven) {
  const Tensor logits = random_tensor({1, 6, 3}, 1), load = Tensor::full({1, 3}, 4, DType::kFloat64);
  EXPECT_NEAR(router_loss(logits, load, {.tokens = 6, .balance = 0.01}).data().item(), 0.01, 1e-15);
}

TEST(RouterLoss, OfPartsOfASequenceAddsUp) {
  const LossCase c = kLosses[1];
  const Tensor logits = random_tensor({2, 10, 5}, 6), load = expert_loads(route_for(c, logits).expert, 5);
  const auto loss = [&](int64_t begin, int64_t length) {
    return router_loss(logits.narrow(1, begin, length), load, {.type = c.type, .tokens = 10, .balance = c.balance, .z = c.z}).data().item();
  };
  EXPECT_NEAR(loss(0, 4) + loss(4, 6), loss(0, 10), 1e-14);
}

TEST(RouterLoss, BackwardMatchesFiniteDifferences) {
  for (const LossCase& c : kLosses) {
    const Tensor logits = random_slice({2, 5, 4}, 5, 2.0), load = expert_loads(route_for(c, logits).expert, 4);
    testing::expect_gradients({{"logits", logits}}, [&](const Vars& in) {
      return Vars{router_loss(in[0], load, {.type = c.type, .tokens = 7, .balance = c.balance, .z = c.z})};
    });
  }
}

TEST(RouterLoss, Fp32MatchesFp64OnOneAndTwoThreads) {
  for (const LossCase& c : kLosses) {
    const Tensor logits = random_tensor({2, 3000, 8}, 1, 3.0, DType::kFloat32), load = expert_loads(route_for(c, logits).expert, 8);
    const auto loss = [&](const Vars& in) {
      return Vars{router_loss(in[0], load.to(in[0].data().device()), {.type = c.type, .tokens = 3000, .balance = c.balance, .z = c.z})};
    };
    testing::expect_precision({{"logits", logits}}, loss, 1e-5, 1e-5);
    testing::expect_same_bits_on_one_and_two_threads([&] { return testing::trace({{"logits", logits}}, loss).all(); });
  }
}

TEST(ExpertLoads, CountTheSlotsOfEachRow) {
  for (const Device device : testing::devices()) {
    const Tensor load = expert_loads(Tensor::from<int64_t>({2, 2, 2}, {0, 2, 0, 1, 3, 2, 2, 3}).to(device), 5);
    EXPECT_EQ(load.to_vector<double>(), (std::vector<double>{2, 1, 1, 0, 0, 0, 0, 2, 2, 0}));
    EXPECT_EQ(expert_loads(Tensor::full({3, 3000, 2}, 1, DType::kInt64, device), 2).to_vector<double>(),
              (std::vector<double>{0, 6000, 0, 6000, 0, 6000}));
    EXPECT_EQ(expert_loads(Tensor::zeros({1, 0, 2}, DType::kInt64, device), 2).to_vector<double>(), (std::vector<double>{0, 0}));
  }
}

// ---- Sinkhorn

Tensor sinkhorn(const Tensor& logits, int64_t iterations) {
  const Tensor expert = Tensor::empty(logits.shape().first(2), DType::kInt64, logits.device());
  launch(logits.device(), Sinkhorn{.expert_BT = expert, .logits_BTE = logits, .iterations = iterations});
  return expert;
}

TEST(Sinkhorn, MatchesTheDefinition) {
  for (const int64_t iterations : {0, 1, 8}) {
    const Tensor logits = random_tensor({3, 37, 5}, 1, 2.0);
    for (int64_t row = 0; row < 3; ++row) {
      std::vector<Numbers> tokens;
      for (int64_t t = 0; t < 37; ++t) tokens.push_back(logits.select(0, row).select(0, t).to_vector<double>());
      EXPECT_EQ(sinkhorn(logits, iterations).select(0, row).to_vector<int64_t>(), reference::sinkhorn(tokens, iterations));
    }
  }
}

TEST(Sinkhorn, OfFp32IsThatOfFp64) {
  for (const Device device : testing::devices())
    for (const auto& [rows, tokens, experts, iterations] : {std::array{1, 1, 1, 3}, {3, 37, 5, 1}, {2, 700, 70, 8}}) {
      const Tensor logits = random_tensor({rows, tokens, experts}, 1, 2.0, DType::kFloat32);
      EXPECT_EQ(sinkhorn(logits.to(device), iterations).to_vector<int64_t>(),
                sinkhorn(logits.to(DType::kFloat64), iterations).to_vector<int64_t>());
    }
}

TEST(Sinkhorn, EvensOutASkewedLoad) {
  const Tensor logits = random_tensor({1, 400, 4}, 1, 1.0, DType::kFloat32);
  logits.narrow(2, 1, 1).add(Tensor::full({1, 400, 1}, 3, DType::kFloat32));  // all prefer expert 1
  const auto most = [&](int64_t iterations) {
    const auto load = expert_loads(sinkhorn(logits, iterations).reshape({1, 400, 1}), 4).to_vector<double>();
    return *std::max_element(load.begin(), load.end());
  };
  EXPECT_EQ(most(0), 400);
  EXPECT_LT(most(8), 150);
}

TEST(Sinkhorn, TakesExtremeAndEmptyRows) {
  for (const Device device : testing::devices()) {
    EXPECT_EQ(sinkhorn(Tensor::from<float>({1, 1, 3}, {-1e30f, 1e30f, 0}).to(device), 8).to_vector<int64_t>(), std::vector<int64_t>{1});
    EXPECT_EQ(sinkhorn(Tensor::zeros({2, 0, 3}, DType::kFloat32, device), 8).numel(), 0);
  }
}

}  // namespace
}  // namespace ropewalk
