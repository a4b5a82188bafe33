#include "kernels/swiglu/swiglu.h"

#include <gmock/gmock.h>

#include "tests/reference/swiglu.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_slice;
using testing::random_tensor;

// y, dgate and dup, for dy given.
Tensors run(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  Tape tape;
  const Var g = tape.input(gate), u = tape.input(up);
  const Var y = swiglu(g, u);
  const Tensors gradients = tape.backward({y}, {dy});
  return {y.data(), gradients[0], gradients[1]};
}

Tensors definition(const Tensor& gate, const Tensor& up, const Tensor& dy) {
  const auto g = gate.to_vector<double>(), u = up.to_vector<double>(), d = dy.to_vector<double>();
  std::vector<double> y, dgate, dup;
  for (size_t i = 0; i < g.size(); ++i) {
    y.push_back(reference::swiglu(g[i], u[i]));
    dgate.push_back(d[i] * reference::swiglu_by_gate(g[i], u[i]));
    dup.push_back(d[i] * reference::swiglu_by_up(g[i]));
  }
  return {Tensor::from(gate.shape(), y), Tensor::from(gate.shape(), dgate), Tensor::from(gate.shape(), dup)};
}

TEST(SwiGlu, MatchesTheDefinition) {
  for (const int64_t width : {1, 7, 130}) {
    const Tensor gate = random_slice({2, 3, width}, 1, 20.0), up = random_slice({2, 3, width}, 2), dy = random_slice({2, 3, width}, 3);
    const Tensors given = run(gate, up, dy), expected = definition(gate, up, dy);
    for (size_t i = 0; i < given.size(); ++i) {
      EXPECT_TRUE(given[i].contiguous());
      EXPECT_TENSOR_NEAR(given[i], expected[i], 1e-14);
    }
  }
}

TEST(SwiGlu, BackwardMatchesFiniteDifferences) {
  for (const int64_t width : {1, 7, 33})
    testing::expect_gradients({{"gate", random_slice({2, 2, width}, 1, 3.0)}, {"up", random_slice({2, 2, width}, 2)}},
                              [](const Vars& in) { return Vars{swiglu(in[0], in[1])}; });
}

TEST(SwiGlu, Fp32AndBf16MatchTheDefinition) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Tensor gate = random_slice({9, 130}, 1, 8.0, dtype), up = random_slice({9, 130}, 2, 1.0, dtype),
                 dy = random_slice({9, 130}, 3, 1.0, dtype);
    const Tensors given = run(gate, up, dy), expected = definition(gate, up, dy);
    for (size_t i = 0; i < given.size(); ++i) EXPECT_TENSOR_NEAR(given[i], expected[i], dtype == DType::kFloat32 ? 1e-6 : 4e-3);
  }
}

TEST(SwiGlu, SaturatesWithoutNan) {
  const Tensor gate = Tensor::from<float>({6}, {-1000, -100, -88, 88, 100, 1000}), one = Tensor::full({6}, 1, DType::kFloat32);
  const Tensors given = run(gate, one, one);
  EXPECT_THAT(given[0].to_vector<float>(), ::testing::Pointwise(::testing::FloatNear(1e-30f), {0, 0, 0, 88, 100, 1000}));
  EXPECT_THAT(given[1].to_vector<float>(), ::testing::Pointwise(::testing::FloatNear(1e-30f), {0, 0, 0, 1, 1, 1}));
}

TEST(SwiGlu, TakesAGradientThatIsNotRows) {
  const Tensor gate = random_tensor({2, 3, 5}, 1), up = random_tensor({2, 3, 5}, 2), dy = random_tensor({2, 6, 5}, 3).narrow(1, 1, 3);
  EXPECT_EQ(run(gate, up, dy)[1].to_vector<double>(), run(gate, up, dy.contiguous_copy())[1].to_vector<double>());
}

TEST(SwiGlu, GivesTheSameBitsOnOneAndTwoThreads) {
  const Tensor gate = random_slice({300, 700}, 1, 3.0, DType::kFloat32), up = random_slice({300, 700}, 2, 1.0, DType::kFloat32);
  testing::expect_same_bits_on_one_and_two_threads([&] { return run(gate, up, up); });
}

TEST(SwiGlu, TakesEmptyTensors) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}}) {
    const Tensor none = Tensor::zeros(shape, DType::kFloat32);
    for (const Tensor& tensor : run(none, none, none)) EXPECT_EQ(tensor.shape(), shape);
  }
}

TEST(SwiGlu, NamesWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        swiglu(random_tensor({2, 4}, 1), random_tensor({2, 5}, 2));
      },
      ::testing::ThrowsMessage<ShapeError>("swiglu: up: expected fp64 [2, 4] (gate's), given fp64 [2, 5]"));
}

}  // namespace
}  // namespace ropewalk
