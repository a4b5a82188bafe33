#include "kernels/sgd/sgd.h"

#include <gmock/gmock.h>

#include "tests/reference/optimizers.h"
#include "tests/support/devices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_tensor;

constexpr double kLr = 0.3, kDecay = 0.1, kGradScale = 0.25;
constexpr int kSteps = 4;

Tensor gradient(int64_t n, int64_t t, DType dtype) { return random_tensor({n}, 100 + t, 1.0, dtype); }

void step(const Tensor& master, const Tensor& working, int64_t t, const Tensor& squares = {}) {
  launch(master.device(), SgdStep{.master = master,
                                  .working = working,
                                  .grad = gradient(master.numel(), t, master.dtype()).to(master.device()),
                                  .lr = kLr,
                                  .weight_decay = kDecay,
                                  .grad_scale = kGradScale,
                                  .squares = squares});
}

// master after some steps; `working` may be empty.
Tensor run(int64_t n, DType dtype, const Tensor& working, Device device = {}) {
  const Tensor master = random_tensor({n}, 1, 1.0, dtype).to(device);
  for (int64_t t = 1; t <= kSteps; ++t) step(master, working, t);
  return master;
}

TEST(Sgd, MatchesTheDefinition) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-14}, {DType::kFloat32, 1e-6}})
    for (const int64_t n : {1, 67, 1024 + 5, (1 << 15) + 3}) {
      std::vector<double> expected = random_tensor({n}, 1, 1.0, dtype).to_vector<double>();
      for (int64_t t = 1; t <= kSteps; ++t) {
        const auto grad = gradient(n, t, dtype).to_vector<double>();
        for (int64_t i = 0; i < n; ++i) expected[i] = reference::sgd(expected[i], kGradScale * grad[i], kLr, kDecay);
      }
      for (const Device device : testing::devices(dtype))
        EXPECT_TENSOR_NEAR(run(n, dtype, {}, device), Tensor::from({n}, expected), tolerance);
    }
}

TEST(Sgd, RoundsTheMasterToTheWorkingCopy) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32})
    for (const DType copy : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
      for (const Device device : testing::devices(copy == DType::kFloat64 ? copy : dtype)) {
        const int64_t n = (1 << 15) + 1030;
        const Tensor working = Tensor::zeros({n}, copy, device), master = run(n, dtype, working, device);
        EXPECT_EQ(working.to_vector<double>(), master.to(copy).to_vector<double>());
      }
}

TEST(Sgd, AddsTheSquaresOfWhatItDid) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-12}, {DType::kFloat32, 1e-5}})
    for (const Device device : testing::devices(dtype)) {
      const Tensor master = random_tensor({2053}, 1, 1.0, dtype).to(device), squares = Tensor::full({2}, 0.5, DType::kFloat64, device);
      const auto before = master.to_vector<double>();
      step(master, {}, 1, squares);
      const auto after = master.to_vector<double>(), given = squares.to_vector<double>();
      double update = 0.5, weight = 0.5;
      for (size_t i = 0; i < after.size(); ++i) {
        update += (after[i] - before[i]) * (after[i] - before[i]);
        weight += after[i] * after[i];
      }
      EXPECT_NEAR(given[0], update, tolerance * update);
      EXPECT_NEAR(given[1], weight, tolerance * weight);
    }
}

TEST(Sgd, GivesTheSameBitsOnOneAndTwoThreads) {
  const Tensor working = Tensor::zeros({200000}, DType::kBFloat16);
  testing::expect_same_bits_on_one_and_two_threads([&] {
    return Tensors{run(200000, DType::kFloat32, working), working.contiguous_copy()};
  });
}

TEST(Sgd, TakesEmptySpans) {
  for (const Device device : testing::devices()) EXPECT_EQ(run(0, DType::kFloat32, {}, device).numel(), 0);
}

TEST(Sgd, NamesWhatDoesNotFit) {
  EXPECT_THAT([] { run(4, DType::kFloat32, Tensor::zeros({3}, DType::kBFloat16)); },
              ::testing::ThrowsMessage<ShapeError>("sgd: working: expected a dense bf16 [4], given bf16 [3]"));
}

}  // namespace
}  // namespace ropewalk
