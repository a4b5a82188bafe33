#include "kernels/adamw/adamw.h"

#include <gmock/gmock.h>

#include "tests/reference/optimizers.h"
#include "tests/support/devices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_tensor;

constexpr double kLr = 0.02, kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8, kDecay = 0.1, kGradScale = 0.25;
constexpr int kSteps = 5;

struct State {
  Tensor master, working, m, v;
};

// `working` may be empty.
State start(int64_t n, DType wide_type, const Tensor& working, Device device = {}) {
  const Tensor zeros = Tensor::zeros({n}, wide_type, device);
  return {random_tensor({n}, 1, 1.0, wide_type).to(device), working ? working.to(device) : working, zeros, zeros.contiguous_copy()};
}

Tensor gradient(int64_t n, int64_t t, DType dtype) { return random_tensor({n}, 100 + t, 1.0, dtype); }

void step(const State& state, const Tensor& grad, int64_t t, const Tensor& squares = {}) {
  launch(state.master.device(), AdamWStep{.master = state.master,
                                          .working = state.working,
                                          .m = state.m,
                                          .v = state.v,
                                          .grad = grad,
                                          .lr = kLr,
                                          .beta1 = kBeta1,
                                          .beta2 = kBeta2,
                                          .eps = kEps,
                                          .weight_decay = kDecay,
                                          .grad_scale = kGradScale,
                                          .t = t,
                                          .squares = squares});
}

State run(State state) {
  for (int64_t t = 1; t <= kSteps; ++t) step(state, gradient(state.master.numel(), t, state.master.dtype()).to(state.master.device()), t);
  return state;
}

// master, m and v after all steps by the definition, from the same rounded start and gradients.
Tensors definition(int64_t n, DType dtype) {
  std::vector<double> master = random_tensor({n}, 1, 1.0, dtype).to_vector<double>(), m, v;
  std::vector<reference::AdamW> elements(n, {.lr = kLr, .beta1 = kBeta1, .beta2 = kBeta2, .eps = kEps, .weight_decay = kDecay});
  for (int t = 1; t <= kSteps; ++t) {
    const auto grad = gradient(n, t, dtype).to_vector<double>();
    for (int64_t i = 0; i < n; ++i) master[i] = elements[i].step(master[i], kGradScale * grad[i]);
  }
  for (const reference::AdamW& element : elements) {
    m.push_back(element.m);
    v.push_back(element.v);
  }
  return {Tensor::from({n}, master), Tensor::from({n}, m), Tensor::from({n}, v)};
}

TEST(AdamW, MatchesTheDefinition) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-14}, {DType::kFloat32, 1e-6}})
    for (const int64_t n : {1, 67, 1024 + 5, (1 << 15) + 3}) {
      const Tensors expected = definition(n, dtype);
      for (const Device device : testing::devices(dtype)) {
        const State given = run(start(n, dtype, {}, device));
        EXPECT_TENSOR_NEAR(given.master, expected[0], tolerance);
        EXPECT_TENSOR_NEAR(given.m, expected[1], tolerance);
        EXPECT_TENSOR_NEAR(given.v, expected[2], tolerance);
      }
    }
}

TEST(AdamW, RoundsTheMasterToTheWorkingCopy) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32})
    for (const DType working : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
      for (const Device device : testing::devices(working == DType::kFloat64 ? working : dtype)) {
        const int64_t n = (1 << 15) + 1030;
        const State given = run(start(n, dtype, Tensor::zeros({n}, working), device));
        EXPECT_EQ(given.working.to_vector<double>(), given.master.to(working).to_vector<double>());
      }
}

TEST(AdamW, AddsTheSquaresOfWhatItDid) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}})
    for (const Device device : testing::devices(dtype))
      for (const int64_t n : {1, 67, (1 << 15) + 1030}) {
        const State state = start(n, dtype, {}, device);
        const Tensor squares = Tensor::full({2}, 0.5, DType::kFloat64, device);
        const auto before = state.master.to_vector<double>();
        step(state, gradient(n, 1, dtype).to(device), 1, squares);
        const auto after = state.master.to_vector<double>(), given = squares.to_vector<double>();
        double update = 0.5, weight = 0.5;
        for (size_t i = 0; i < after.size(); ++i) {
          update += (after[i] - before[i]) * (after[i] - before[i]);
          weight += after[i] * after[i];
        }
        EXPECT_NEAR(given[0], update, tolerance * update);
        EXPECT_NEAR(given[1], weight, tolerance * weight);
      }
}

TEST(AdamW, GivesTheSameBitsOnOneAndTwoThreads) {
  const int64_t n = 200000;
  testing::expect_same_bits_on_one_and_two_threads([&] {
    const State state = run(start(n, DType::kFloat32, Tensor::zeros({n}, DType::kBFloat16)));
    return Tensors{state.master, state.working, state.m, state.v};
  });
}

TEST(AdamW, GivesAnElementTheSameBitsInAnySpan) {  // so that a shard's border changes nothing
  for (const Device device : testing::devices()) {
    const State whole = run(start(3000, DType::kFloat32, {}, device)), all = start(3000, DType::kFloat32, {}, device);
    for (const auto& [begin, length] : {std::pair{0, 1}, {1, 1029}, {1030, 1970}})
      for (int64_t t = 1; t <= kSteps; ++t) {
        const auto part = [begin = begin, length = length](const Tensor& x) { return x.narrow(0, begin, length); };
        step({part(all.master), {}, part(all.m), part(all.v)}, part(gradient(3000, t, DType::kFloat32).to(device)), t);
      }
    EXPECT_EQ(all.master.to_vector<float>(), whole.master.to_vector<float>());
  }
}

TEST(AdamW, TakesEmptySpans) {
  for (const Device device : testing::devices()) {
    const State empty = start(0, DType::kFloat32, Tensor::zeros({0}, DType::kBFloat16), device);
    const Tensor squares = Tensor::zeros({2}, DType::kFloat64, device);
    step(empty, gradient(0, 1, DType::kFloat32).to(device), 1, squares);
    EXPECT_THAT(squares.to_vector<double>(), ::testing::Each(0));
  }
}

TEST(AdamW, NamesWhatDoesNotFit) {
  State state = start(4, DType::kFloat32, Tensor::zeros({3}, DType::kBFloat16));
  EXPECT_THAT([&] { run(state); }, ::testing::ThrowsMessage<ShapeError>("adamw: working: expected a dense bf16 [4], given bf16 [3]"));
  state.v = Tensor::zeros({4}, DType::kFloat64);
  EXPECT_THAT([&] { run(state); }, ::testing::ThrowsMessage<ShapeError>("adamw: v: expected a dense fp32 [4], given fp64 [4]"));
}

}  // namespace
}  // namespace ropewalk
