#include "kernels/causal_conv1d/causal_conv1d.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/reference/causal_conv1d.h"
#include "tests/support/precision.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::parameter;
using testing::random_tensor;

struct Case {
  const char* name;
  int64_t rows, tokens, channels, width;
  Runs runs;
  int64_t halos = 0;   // rows of the halo; 0: none given
  int64_t beside = 3;  // other channels of the projection that x is a slice of
};

std::vector<Case> cases() {
  return {
      {"one token", 1, 1, 3, 4, {{.length = 1}}},
      {"width 1", 2, 5, 3, 1, {{.row = 0, .length = 5}, {.row = 1, .length = 5}}},
      {"width 1 with a halo of no tokens", 1, 5, 3, 1, {{.length = 5, .enters = 0}}, 1},
      {"one channel, width 2", 1, 9, 1, 2, {{.length = 9}}},
      {"wider than the run", 1, 3, 2, 7, {{.length = 3, .enters = 0}}, 1},
      {"documents in a row, one of a single token",
       2,
       12,
       5,
       4,
       {{.row = 0, .begin = 0, .length = 7},
        {.row = 0, .begin = 7, .length = 1},
        {.row = 0, .begin = 8, .length = 4},
        {.row = 1, .begin = 0, .length = 12}}},
      // The second row of the halo is entered by nobody, the first by two runs, as from meta tokens.
      {"pieces that enter from a halo",
       2,
       10,
       5,
       4,
       {{.row = 0, .begin = 0, .length = 4, .enters = 2},
        {.row = 0, .begin = 4, .length = 6, .enters = 0},
        {.row = 1, .begin = 0, .length = 2},
        {.row = 1, .begin = 2, .length = 8, .enters = 0}},
       3},
      {"more tokens than a task takes, more channels and taps than a block",
       1,
       68,
       33,
       6,
       {{.begin = 0, .length = 30}, {.begin = 30, .length = 38, .enters = 0}},
       1},
      // Dense, with channels that can be read in packs.
      {"several tasks, whose borders lie in runs and near their ends",
       2,
       70,
       12,
       4,
       {{.row = 0, .begin = 0, .length = 31, .enters = 1},
        {.row = 0, .begin = 31, .length = 3},
        {.row = 0, .begin = 34, .length = 36, .enters = 0},
        {.row = 1, .begin = 0, .length = 1, .enters = 0},
        {.row = 1, .begin = 1, .length = 69}},
       2,
       8},
  };
}

struct Inputs {
  Tensor x, weight, bias, halo;
  explicit Inputs(const Case& c)
      : x(random_tensor({c.rows, c.tokens, c.channels + c.beside}, 1)
              .narrow(2, c.beside / 2, c.channels)),  // a slice of a fused projection
        weight(random_tensor({c.channels, c.width}, 2)),
        bias(random_tensor({c.channels}, 3)),
        halo(c.halos ? random_tensor({c.halos, c.width - 1, c.channels}, 4) : Tensor()) {}
};

Tensor definition(const Case& c, const Inputs& in) {
  const auto halo = in.halo ? in.halo.to_vector<double>() : std::vector<double>();
  return Tensor::from(in.x.shape(),
                      reference::causal_conv1d_silu(in.x.to_vector<double>(), in.weight.to_vector<double>(), in.bias.to_vector<double>(),
                                                    halo, c.runs, c.tokens, c.channels, c.width));
}

// y, dx, d_halo (where there is one), d_weight, d_bias.
Tensors forward_backward(const Case& c, const Inputs& in, DType dtype, Device device = {}) {
  Tape tape;
  const auto there = [&](const Tensor& x) { return testing::on(device, x.to(dtype)); };
  const Tensor slice = Tensor::empty(in.x.shape().with(-1, c.channels + c.beside), dtype, device).narrow(-1, c.beside / 2, c.channels);
  slice.copy_from(there(in.x));
  const Var x = tape.input(slice), halo = in.halo ? tape.input(there(in.halo)) : Var();
  const Var weight = parameter("weight", there(in.weight)), bias = parameter("bias", there(in.bias));
  const Var y = causal_conv1d_silu(x, weight, bias, halo, c.runs);
  Tensors results = {y.data()};
  for (const Tensor& gradient : tape.backward({y}, {there(random_tensor(y.shape(), 5).to(DType::kBFloat16))})) results.push_back(gradient);
  results.push_back(weight.leaf()->grad);
  results.push_back(bias.leaf()->grad);
  return results;
}

TEST(CausalConv1d, MatchesItsDefinition) {
  for (const Case& c : cases()) {
    const Inputs in(c);
    EXPECT_TENSOR_NEAR(causal_conv1d_silu(in.x, in.weight, in.bias, in.halo, c.runs).data(), definition(c, in), 1e-10) << c.name;
  }
}

TEST(CausalConv1d, TakesAnEmptyHaloForZeros) {
  for (const Case& c : cases()) {
    Inputs in(c);
    if (!in.halo) continue;
    const Var without = causal_conv1d_silu(in.x, in.weight, in.bias, Var(), c.runs);
    in.halo.fill(0);
    EXPECT_TENSOR_NEAR(without.data(), definition(c, in), 1e-10) << c.name;
  }
}

TEST(CausalConv1d, BackwardMatchesFiniteDifferences) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Inputs in(c);
    std::vector<Argument> arguments = {{"x", in.x}, {"weight", in.weight, Argument::kParameter}, {"bias", in.bias, Argument::kParameter}};
    if (in.halo) arguments.push_back({"halo", in.halo});
    testing::expect_gradients(arguments,
                              [&](const Vars& v) { return Vars{causal_conv1d_silu(v[0], v[1], v[2], in.halo ? v[3] : Var(), c.runs)}; });
  }
}

TEST(CausalConv1d, AddsToTheGradientsOfItsParameters) {
  const Case c = cases().back();
  const Inputs in(c);
  const Var weight = parameter("weight", in.weight), bias = parameter("bias", in.bias);
  Tensors once;
  for (const int uses : {1, 2}) {
    Tape tape;
    const Var y = causal_conv1d_silu(tape.input(in.x), weight, bias, Var(), c.runs);
    tape.backward({y}, {random_tensor(y.shape(), 5)});
    if (uses == 1) once = {weight.leaf()->grad.contiguous_copy(), bias.leaf()->grad.contiguous_copy()};
  }
  once[0].add(once[0].contiguous_copy());
  once[1].add(once[1].contiguous_copy());
  EXPECT_TENSOR_NEAR(weight.leaf()->grad, once[0], 1e-12);
  EXPECT_TENSOR_NEAR(bias.leaf()->grad, once[1], 1e-12);
}

TEST(CausalConv1d, LowerPrecisionsMatchDouble) {
  std::vector<Case> all = cases();
  all.push_back({"more channels than a block takes", 1, 5, 1100, 4, {{.length = 3, .enters = 0}, {.begin = 3, .length = 2}}, 1, 8});
  for (const Case& c : all) {
    Inputs in(c);
    for (Tensor* x : {&in.x, &in.weight, &in.bias, &in.halo})
      if (*x) *x = x->to(DType::kBFloat16).to(DType::kFloat64);
    const Tensors exact = forward_backward(c, in, DType::kFloat64);
    for (const Device device : testing::devices()) {
      SCOPED_TRACE(device.is_cuda() ? "on the GPU" : "on the host");
      const Tensors single = forward_backward(c, in, DType::kFloat32, device), half = forward_backward(c, in, DType::kBFloat16, device);
      for (size_t i = 0; i < exact.size(); ++i) {
        EXPECT_TENSOR_NEAR(single[i], exact[i], 1e-5) << c.name << ", result " << i;
        EXPECT_TENSOR_NEAR(half[i], exact[i], i == 0 ? 1e-2 : 2e-2) << c.name << ", result " << i;
      }
    }
  }
}

TEST(CausalConv1d, GivesTheSameBitsForAnyNumberOfThreads) {
  const Case c{"large", 3, 300, 70, 4, {{.row = 0, .length = 300, .enters = 0}, {.row = 1, .length = 300}, {.row = 2, .length = 300}}, 1};
  const Inputs in(c);
  omp_set_num_threads(1);
  const Tensors one = forward_backward(c, in, DType::kFloat32);
  omp_set_num_threads(2);
  const Tensors two = forward_backward(c, in, DType::kFloat32);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].to_vector<float>(), two[i].to_vector<float>()) << "result " << i;
}

TEST(CausalConv1d, TakesEmptyTensors) {
  const auto shape_of = [](const Shape& x, const Runs& runs) {
    Tape tape;
    const Var weight = parameter("weight", Tensor::zeros({x[2], 4}, DType::kFloat32));
    const Var bias = parameter("bias", Tensor::zeros({x[2]}, DType::kFloat32));
    const Var y = causal_conv1d_silu(tape.input(Tensor::zeros(x, DType::kFloat32)), weight, bias, Var(), runs);
    return tape.backward({y}, {y.data()}).front().shape();
  };
  EXPECT_EQ(shape_of({2, 0, 3}, {}), (Shape{2, 0, 3}));
  EXPECT_EQ(shape_of({2, 0, 3}, {{.row = 1}}), (Shape{2, 0, 3}));
  EXPECT_EQ(shape_of({1, 5, 0}, {{.length = 5}}), (Shape{1, 5, 0}));
}

TEST(CausalConv1d, RefusesOperandsThatDoNotFit) {
  const Tensor x = random_tensor({1, 4, 3}, 1), weight = random_tensor({3, 4}, 2), bias = random_tensor({3}, 3);
  const Runs runs = {{.length = 4}};
  EXPECT_THROW(causal_conv1d_silu(x, random_tensor({2, 4}, 2), bias, Var(), runs), ShapeError);
  EXPECT_THROW(causal_conv1d_silu(x, weight, random_tensor({4}, 3), Var(), runs), ShapeError);
  EXPECT_THROW(causal_conv1d_silu(x, weight, bias, random_tensor({1, 2, 3}, 4), runs), ShapeError);
  EXPECT_THROW(causal_conv1d_silu(x, weight, bias, random_tensor({1, 3, 3}, 4), {{.length = 4, .enters = 1}}), ShapeError);
  EXPECT_THROW(causal_conv1d_silu(x, weight, bias, Var(), {{.length = 3}}), ShapeError);              // a token in no run
  EXPECT_THROW(causal_conv1d_silu(x, weight, bias, Var(), {{.begin = 2, .length = 4}}), ShapeError);  // past the row
}

}  // namespace
}  // namespace ropewalk
