#include "kernels/selective_scan/selective_scan.h"

#include <gtest/gtest.h>

#include "tests/reference/selective_scan.h"
#include "tests/support/finite_difference.h"
#include "tests/support/precision.h"
#include "tests/support/slices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::parameter;
using testing::random_slice;
using testing::random_tensor;

struct Case {
  const char* name;
  int64_t rows, tokens, heads, width, states;  // width: channels of a head
  Runs runs;
  bool gate = true;
  int64_t entering = 0;

  int64_t channels() const { return heads * width; }
};

// One row: documents of 5, 1 and 6 tokens. Two rows: one document, and two pieces that continue others.
const Runs kDocuments = {{.row = 0, .begin = 0, .length = 5}, {.row = 0, .begin = 5, .length = 1}, {.row = 0, .begin = 6, .length = 6}};
const Runs kPieces = {{.row = 0, .begin = 0, .length = 9},
                      {.row = 1, .begin = 0, .length = 4, .enters = 2},
                      {.row = 1, .begin = 4, .length = 5, .enters = 0}};

std::vector<Case> cases() {
  return {
      {"one token", 1, 1, 1, 1, 1, {{.length = 1}}},
      {"one channel", 1, 6, 1, 1, 3, {{.length = 6}}},
      {"no gate", 1, 6, 1, 3, 2, {{.length = 6}}, false},
      {"more than a tile of channels", 1, 3, 1, 19, 2, {{.length = 3}}},
      {"documents", 1, 12, 1, 3, 3, kDocuments},
      {"documents, two heads", 1, 12, 2, 2, 2, kDocuments, false},
      {"pieces of rows", 2, 9, 2, 2, 3, kPieces, true, 3},
      {"more than a chunk of tokens", 1, 67, 1, 2, 1, {{.length = 67}}},
      {"more than a chunk of tokens, continued", 1, 66, 1, 1, 2, {{.length = 66, .enters = 0}}, false, 1},
  };
}

// Two groups of tiles a head, the second with a tail; runs of several chunks; an odd number of states.
const Case kLarge = {
    "large", 2, 150, 2, 150, 5, {{.row = 0, .length = 150}, {.row = 1, .length = 70}, {.row = 1, .begin = 70, .length = 80, .enters = 0}},
    true,    1};

// As many states as mixers have, and more than that; channels and states that packs of sixteen bytes divide, or only one of them.
std::vector<Case> cases_of_many_states() {
  const Runs pieces = {{.row = 0, .length = 70}, {.row = 0, .begin = 70, .length = 5}, {.row = 1, .length = 75, .enters = 0}};
  return {
      {"sixteen states", 2, 75, 2, 136, 16, pieces, true, 1},
      {"forty states", 2, 75, 2, 8, 40, pieces, true, 1},
      {"seventeen states", 2, 75, 1, 8, 17, pieces, false, 1},
      {"sixteen states, odd channels", 1, 12, 1, 5, 16, kDocuments},
  };
}

// In the order of the op's inputs; x is dense, the others are slices.
std::vector<Argument> arguments(const Case& k, double step_scale = 1) {
  const Shape channels{k.rows, k.tokens, k.channels()};
  const Tensor dbc = random_slice({k.rows, k.tokens, 2 * k.heads * k.states}, 4);
  const auto vectors = [&](int64_t i) {
    if (k.states == 0) return Tensor::zeros({k.rows, k.tokens, k.heads, 0}, DType::kFloat64);
    return dbc.narrow(2, i * k.heads * k.states, k.heads * k.states).split_dim(2, k.states);
  };
  std::vector<Argument> all = {{"x", random_tensor(channels, 1)},
                               {"dt", random_slice(channels, 2, step_scale)},
                               {"b", vectors(0)},
                               {"c", vectors(1)},
                               {"a_log", random_tensor({k.channels(), k.states}, 5), Argument::kParameter},
                               {"dt_bias", random_tensor({k.channels()}, 6), Argument::kParameter},
                               {"d_skip", random_tensor({k.channels()}, 7), Argument::kParameter}};
  if (k.gate) all.push_back({"z", random_slice(channels, 3)});
  if (k.entering > 0) all.push_back({"h0", random_tensor({k.entering, k.channels(), k.states}, 8)});
  return all;
}

SelectiveScanInputs inputs(const Case& k, const Vars& x) {
  return {.x = x[0],
          .dt = x[1],
          .z = k.gate ? x[7] : Var(),
          .b = x[2],
          .c = x[3],
          .a_log = x[4],
          .dt_bias = x[5],
          .d_skip = x[6],
          .h0 = k.entering > 0 ? x.back() : Var(),
          .runs = k.runs};
}
SelectiveScan scan(const Case& k, const Vars& x) { return selective_scan(inputs(k, x)); }

std::function<Vars(const Vars&)> both_outputs(const Case& k) {
  return [&k](const Vars& x) {
    const SelectiveScan out = scan(k, x);
    return Vars{out.y, out.leaving};
  };
}

Vars constants(const std::vector<Argument>& arguments) {
  Vars values;
  for (const Argument& argument : arguments) values.push_back(argument.value);
  return values;
}

std::vector<Case> all_cases() {
  std::vector<Case> all = cases();
  all.push_back(kLarge);
  return all;
}

std::vector<Argument> densely(std::vector<Argument> arguments) {
  for (Argument& argument : arguments) argument.value = argument.value.packed();
  return arguments;
}

TEST(SelectiveScan, MatchesTheRecurrence) {
  std::vector<Case> all = all_cases();
  for (const Case& k : cases_of_many_states()) all.push_back(k);
  for (const Case& k : all) {
    const Vars in = constants(arguments(k));
    const auto values = [&](size_t i) { return in[i].data().to_vector<double>(); };
    const reference::SelectiveScan definition{.tokens = k.tokens,
                                              .channels = k.channels(),
                                              .heads = k.heads,
                                              .states = k.states,
                                              .x = values(0),
                                              .dt = values(1),
                                              .z = k.gate ? values(7) : std::vector<double>(),
                                              .b = values(2),
                                              .c = values(3),
                                              .a_log = values(4),
                                              .dt_bias = values(5),
                                              .d_skip = values(6)};
    const auto expected = definition.scan(k.runs, k.entering > 0 ? values(in.size() - 1) : std::vector<double>());
    const SelectiveScan given = scan(k, in);
    EXPECT_TENSOR_NEAR(given.y.data(), Tensor::from(in[0].shape(), expected.y), 1e-10) << k.name;
    EXPECT_TENSOR_NEAR(given.leaving.data(), Tensor::from(given.leaving.shape(), expected.leaving), 1e-10) << k.name;
  }
}

TEST(SelectiveScan, BackwardMatchesFiniteDifferences) {
  for (const Case& k : cases()) {
    SCOPED_TRACE(k.name);
    testing::expect_gradients(arguments(k), both_outputs(k));
    for (const size_t unused : {0, 1})
      testing::expect_gradients(arguments(k), [&](const Vars& x) { return Vars{both_outputs(k)(x)[1 - unused]}; });
  }
}

TEST(SelectiveScan, LeavesConstantsWithoutGradients) {
  const Case k = cases()[6];
  for (size_t constant = 0; constant < arguments(k).size(); ++constant) {
    auto some = arguments(k);
    some[constant].kind = Argument::kConstant;
    SCOPED_TRACE(some[constant].name);
    testing::expect_gradients(some, both_outputs(k));
  }
}

// The activations in `dtype`, rounded to bf16 whatever it is; the rest in the wide type, rounded to fp32.
std::vector<Argument> rounded(std::vector<Argument> arguments, DType dtype) {
  for (Argument& argument : arguments) {
    const bool is_wide = argument.kind == Argument::kParameter || argument.name == "h0";
    argument.value = argument.value.to(is_wide ? DType::kFloat32 : DType::kBFloat16).to(is_wide ? wide(dtype) : dtype);
  }
  return arguments;
}

TEST(SelectiveScan, LowerPrecisionsMatchDouble) {
  for (const Case& k : all_cases()) {
    SCOPED_TRACE(k.name);
    testing::expect_precision(rounded(arguments(k), DType::kFloat32), both_outputs(k), 1e-5, 1e-5);
    testing::expect_precision(rounded(arguments(k), DType::kBFloat16), both_outputs(k), 1e-2, 2e-2);
  }
}

TEST(SelectiveScan, LowerPrecisionsMatchDoubleForManyStates) {
  for (const Case& k : cases_of_many_states())
    for (const auto& given : {arguments(k), densely(arguments(k))}) {
      SCOPED_TRACE(k.name);
      testing::expect_precision(rounded(given, DType::kFloat32), both_outputs(k), 1e-5, 1e-5);
      testing::expect_precision(rounded(given, DType::kBFloat16), both_outputs(k), 1e-2, 2e-2);
    }
}

TEST(SelectiveScan, KeepsItsPrecisionWhereStatesDecayFast) {
  testing::expect_precision(rounded(arguments(kLarge, 100), DType::kFloat32), both_outputs(kLarge), 1e-5, 1e-5);
}

TEST(SelectiveScan, KeepsItsPrecisionOverThousandsOfTokensOfSlowDecay) {
  const Case k = {"slow", 1, 4000, 1, 2, 2, {{.length = 4000}}};
  auto slow = arguments(k);
  slow[5].value.fill(-9);  // steps of 1e-4: a state remembers ten thousand tokens
  testing::expect_precision(rounded(slow, DType::kFloat32), both_outputs(k), 1e-5, 1e-5);
}

TEST(SelectiveScan, ContinuesWhereAnotherCallLeft) {
  const Case whole = {"whole", 1, 75, 1, 20, 3, {{.length = 75}}};
  const auto in = arguments(whole);
  const SelectiveScan expected = scan(whole, constants(in));
  Case part = whole;
  Tensor state;
  int64_t fed = 0;
  for (const int64_t count : {1, 66, 1, 7}) {
    auto piece = in;
    for (const size_t i : {0, 1, 2, 3, 7}) piece[i].value = in[i].value.narrow(1, fed, count);
    part.tokens = count;
    part.runs = {{.length = count, .position = fed, .enters = fed == 0 ? -1 : 0}};
    part.entering = fed == 0 ? 0 : 1;
    if (fed > 0) piece.push_back({"h0", state});
    const SelectiveScan given = scan(part, constants(piece));
    EXPECT_TENSOR_NEAR(given.y.data(), expected.y.data().narrow(1, fed, count), 1e-13) << "from token " << fed;
    state = given.leaving.data();
    fed += count;
  }
  EXPECT_TENSOR_NEAR(state, expected.leaving.data(), 1e-13);
}

// A case whose runs all continue from states of their own.
Case entered(Case k) {
  k.entering = std::ssize(k.runs);
  for (int64_t r = 0; r < k.entering; ++r) k.runs[r].enters = r;
  return k;
}

// decay and left
Tensors summary(const Case& k, const Vars& in) {
  const Tensor states = Tensor::empty({std::ssize(k.runs), k.channels(), k.states}, wide(in[0].dtype()), in[0].data().device());
  const Tensor decay = empty_like(states), left = empty_like(states);
  launch(decay.device(), SelectiveScanSummary{.decay = decay, .left = left, .in = operands_of(inputs(k, in))()});
  return {decay, left};
}

Tensor adjoint(const Case& k, const Vars& in, const Tensor& dy) {
  const Tensor given = Tensor::empty({std::ssize(k.runs), k.channels(), k.states}, wide(in[0].dtype()), dy.device());
  launch(dy.device(), SelectiveScanAdjoint{.d_entering = given, .dy = dy, .in = operands_of(inputs(k, in))()});
  return given;
}

TEST(SelectiveScanSummary, IsWhatRunsDoToAnyState) {
  for (const Case& k : all_cases()) {
    SCOPED_TRACE(k.name);
    const Case with_states = entered(k);
    const Vars in = constants(arguments(with_states));
    const Tensor h0 = in.back().data();
    const Tensors given = summary(with_states, in);
    const auto h = h0.to_vector<double>(), d = given[0].to_vector<double>(), l = given[1].to_vector<double>();
    std::vector<double> leaving;
    for (size_t i = 0; i < h.size(); ++i) leaving.push_back(d[i] * h[i] + l[i]);
    EXPECT_TENSOR_NEAR(scan(with_states, in).leaving.data(), Tensor::from(h0.shape(), leaving), 1e-12);
  }
}

TEST(SelectiveScanAdjoint, IsTheGradientOfTheStatesThatEnter) {
  for (const Case& k : all_cases()) {
    SCOPED_TRACE(k.name);
    const Case with_states = entered(k);
    Vars in = constants(arguments(with_states));
    Tape tape;
    in.back() = tape.input(in.back().data());
    const Tensor dy = random_tensor(in[0].shape(), 9);
    const Tensor expected = tape.backward({scan(with_states, in).y}, {dy})[0];
    EXPECT_TENSOR_NEAR(adjoint(with_states, in, dy), expected, 1e-12);
  }
}

Vars vars_on(Device device, const std::vector<Argument>& arguments) {
  Vars there;
  for (const Argument& argument : arguments) there.push_back(testing::on(device, argument.value));
  return there;
}

TEST(SelectiveScan, SummaryAndAdjointMatchDoubleInLowerPrecisions) {
  std::vector<Case> all = all_cases();
  for (const Case& k : cases_of_many_states()) all.push_back(k);
  for (const Case& k : all)
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
      for (const Device device : testing::devices()) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", k.name, dtype, device.is_cuda() ? "on the GPU" : "on the host"));
        const auto narrow = rounded(arguments(k), dtype);
        auto exact = narrow;
        for (Argument& argument : exact) argument.value = argument.value.to(DType::kFloat64);
        const Tensor dy = random_tensor({k.rows, k.tokens, k.channels()}, 9, 1, dtype);
        const Tensors given = summary(k, vars_on(device, narrow)), expected = summary(k, constants(exact));
        for (size_t i = 0; i < 2; ++i) EXPECT_TENSOR_NEAR(given[i], expected[i], 1e-5) << i;
        EXPECT_TENSOR_NEAR(adjoint(k, vars_on(device, narrow), testing::on(device, dy)), adjoint(k, constants(exact), dy.to(DType::kFloat64)),
                           1e-5);
      }
}

TEST(SelectiveScan, GivesTheSameBitsForAnyNumberOfThreads) {
  const auto in = rounded(arguments(kLarge), DType::kFloat32);
  testing::expect_same_bits_on_one_and_two_threads([&] { return testing::trace(in, both_outputs(kLarge)).all(); });
}

TEST(SelectiveScan, AddsToTheGradientsOfItsParameters) {
  const Case k = cases()[4];
  const auto in = arguments(k);
  const Vars values = constants(in);
  const Vars weights = {parameter("a_log", in[4].value), parameter("dt_bias", in[5].value), parameter("d_skip", in[6].value)};
  Tensors once;
  for (const int use : {1, 2}) {
    Tape tape;
    const Var y = scan(k, {tape.input(in[0].value), values[1], values[2], values[3], weights[0], weights[1], weights[2], values[7]}).y;
    tape.backward({y}, {random_tensor(y.shape(), 9)});
    for (const Var& weight : weights)
      if (use == 1) once.push_back(weight.leaf()->grad.contiguous_copy());
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    once[i].add(once[i].contiguous_copy());
    EXPECT_TENSOR_NEAR(weights[i].leaf()->grad, once[i], 1e-12) << weights[i].leaf()->name;
  }
}

TEST(SelectiveScan, TakesEmptyTensors) {
  const Case no_tokens{"no tokens", 2, 0, 1, 3, 2, {}}, no_states{"no states", 1, 4, 1, 3, 0, {{.length = 4}}},
      no_channels{"no channels", 1, 4, 1, 0, 2, {{.length = 4}}}, empty_run{"an empty run", 1, 4, 1, 2, 2, {{.length = 0}, {.length = 4}}};
  for (const Case& k : {no_tokens, no_states, no_channels, empty_run}) {
    EXPECT_EQ(testing::trace(arguments(k), both_outputs(k)).outputs[0].shape(), (Shape{k.rows, k.tokens, k.channels()})) << k.name;
    SCOPED_TRACE(k.name);
    testing::expect_precision(rounded(arguments(k), DType::kFloat32), both_outputs(k), 1e-5, 1e-5);
  }
}

TEST(SelectiveScan, RefusesOperandsThatDoNotFit) {
  const Case k = cases()[6];
  for (size_t argument = 0; argument < arguments(k).size(); ++argument) {
    auto wrong = arguments(k);
    wrong[argument].value = random_tensor({2, 9, 3, 3}, 1);
    EXPECT_THROW(scan(k, constants(wrong)), ShapeError) << wrong[argument].name;
    wrong[argument].value = arguments(k)[argument].value.to(DType::kFloat32);
    EXPECT_THROW(scan(k, constants(wrong)), ShapeError) << wrong[argument].name;
  }
  Case uncovered = k, beyond = k, twice = k;
  uncovered.runs.pop_back();
  beyond.runs[2].enters = 3;
  twice.runs[2].enters = 2;
  for (const Case& wrong : {uncovered, beyond, twice}) EXPECT_THROW(scan(wrong, constants(arguments(k))), ShapeError);
}

}  // namespace
}  // namespace ropewalk
