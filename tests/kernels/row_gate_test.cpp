#include "kernels/row_gate/row_gate.h"

#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_slice;
using testing::random_tensor;

Vars gated(const Vars& in) { return {row_gate(in[0], in[1])}; }

TEST(RowGate, MatchesTheDefinition) {
  for (const int64_t width : {1, 7, 130}) {
    const Tensor x = random_slice({2, 3, width}, 1), gate = random_slice({2, 3, 1}, 2, 5.0);
    auto expected = x.to_vector<double>();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] /= 1 + std::exp(-gate.to_vector<double>()[i / static_cast<size_t>(width)]);
    EXPECT_TENSOR_NEAR(row_gate(x, gate).data(), Tensor::from(x.shape(), expected), 1e-14);
  }
}

TEST(RowGate, BackwardMatchesFiniteDifferences) {
  for (const int64_t width : {1, 7})
    testing::expect_gradients({{"x", random_slice({2, 2, width}, 1)}, {"gate", random_slice({2, 2, 1}, 2)}}, gated);
}

TEST(RowGate, Fp32AndBf16MatchFp64) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const double tolerance = dtype == DType::kFloat32 ? 1e-5 : 1e-2;
    testing::expect_precision({{"x", random_slice({9, 130}, 1, 1.0, dtype)}, {"gate", random_tensor({9, 1}, 2, 1.0, dtype)}}, gated,
                              tolerance, tolerance);
    testing::expect_precision({{"x", random_tensor({9, 136}, 1, 1.0, dtype)}, {"gate", random_slice({9, 1}, 2, 5.0, dtype)}}, gated,
                              tolerance, tolerance);
  }
}

TEST(RowGate, GivesTheSameBitsOnOneAndTwoThreads) {
  testing::expect_same_bits_on_one_and_two_threads([] {
    return testing::trace(
               {{"x", random_tensor({300, 700}, 1, 1.0, DType::kFloat32)}, {"gate", random_tensor({300, 1}, 2, 1.0, DType::kFloat32)}},
               gated)
        .all();
  });
}

TEST(RowGate, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}}) {
    const Tensor x = Tensor::zeros(shape, DType::kFloat32), gate = Tensor::zeros(shape.with(-1, 1), DType::kFloat32);
    EXPECT_EQ(testing::trace({{"x", x}, {"gate", gate}}, gated).gradients[1].shape(), gate.shape());
  }
}

}  // namespace
}  // namespace ropewalk
