#include "kernels/ssd/ssd.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/reference/ssd.h"
#include "tests/support/affine_scan_op.h"
#include "tests/support/finite_difference.h"
#include "tests/support/precision.h"

namespace ropewalk {
namespace {

using testing::Argument;
using testing::parameter;
using testing::random_tensor;

struct Case {
  const char* name;
  int64_t rows, tokens, heads, width, groups, state, chunk;
  Runs runs;
  double dt_low = 0, dt_high = std::numeric_limits<double>::infinity();
};

// One row: documents of 5, 1 and 6 tokens. Two rows: one document, and two pieces that continue others.
const Runs kDocuments = {{.row = 0, .begin = 0, .length = 5}, {.row = 0, .begin = 5, .length = 1}, {.row = 0, .begin = 6, .length = 6}};
const Runs kPieces = {{.row = 0, .begin = 0, .length = 9},
                      {.row = 1, .begin = 0, .length = 4, .enters = 1},
                      {.row = 1, .begin = 4, .length = 5, .enters = 0}};

std::vector<Case> cases() {
  return {
      {"one token", 1, 1, 1, 1, 1, 1, 4, {{.length = 1}}},
      {"chunks of one token", 1, 5, 2, 3, 1, 2, 1, {{.length = 5}}},
      {"one head", 1, 8, 1, 3, 1, 4, 4, {{.length = 8}}},
      {"a chunk longer than the run", 1, 6, 2, 3, 2, 5, 64, {{.length = 6}}},
      {"documents, two heads a group", 1, 12, 4, 2, 2, 3, 4, kDocuments},
      {"documents, one group", 1, 12, 4, 3, 1, 2, 7, kDocuments},
      {"pieces of a row", 2, 9, 4, 2, 2, 3, 4, kPieces},
      {"more than a block of tokens", 1, 41, 2, 2, 1, 2, 37, {{.length = 41}}},
      {"steps that a limit holds from above or below", 1, 12, 4, 2, 2, 3, 4, kDocuments, 0.6, 0.8},
  };
}

const Case kLarge = {
    "large", 2, 200, 4, 32, 2, 16, 64, {{.row = 0, .length = 200}, {.row = 1, .length = 70}, {.row = 1, .begin = 70, .length = 130}}};

struct Inputs {
  Tensor v, dt, b, c, a_log, dt_bias, d_skip;

  // v, b and c are slices of one fused projection.
  explicit Inputs(const Case& k, double scale = 1)
      : dt(random_tensor({k.rows, k.tokens, k.heads}, 2, scale)),
        a_log(random_tensor({k.heads}, 3)),
        dt_bias(random_tensor({k.heads}, 4)),
        d_skip(random_tensor({k.heads}, 5)) {
    const int64_t inner = k.heads * k.width, shared = k.groups * k.state;
    const Tensor fused = random_tensor({k.rows, k.tokens, inner + 2 * shared + 1}, 1);
    v = fused.narrow(2, 1, inner).split_dim(2, k.width);
    b = fused.narrow(2, 1 + inner, shared).split_dim(2, k.state);
    c = fused.narrow(2, 1 + inner + shared, shared).split_dim(2, k.state);
  }

  std::vector<Argument> arguments() const {
    return {{"v", v},
            {"dt", dt},
            {"b", b},
            {"c", c},
            {"a_log", a_log, Argument::kParameter},
            {"dt_bias", dt_bias, Argument::kParameter},
            {"d_skip", d_skip, Argument::kParameter}};
  }
};

SsdInputs inputs(const Vars& x, const Case& k) {
  return {.v = x[0],
          .dt = x[1],
          .b = x[2],
          .c = x[3],
          .a_log = x[4],
          .dt_bias = x[5],
          .d_skip = x[6],
          .runs = k.runs,
          .chunk = k.chunk,
          .dt_low = k.dt_low,
          .dt_high = k.dt_high};
}

Vars constants(const Inputs& in) { return {in.v, in.dt, in.b, in.c, in.a_log, in.dt_bias, in.d_skip}; }

reference::Ssd definition(const Inputs& in, const Case& k) {
  return {k.tokens,
          k.heads,
          k.width,
          k.groups,
          k.state,
          in.v.to_vector<double>(),
          in.dt.to_vector<double>(),
          in.b.to_vector<double>(),
          in.c.to_vector<double>(),
          in.a_log.to_vector<double>(),
          in.dt_bias.to_vector<double>(),
          in.d_skip.to_vector<double>(),
          k.dt_low,
          k.dt_high};
}

Shape states_shape(const Case& k, size_t count) { return {static_cast<int64_t>(count), k.heads, k.width, k.state}; }
size_t chunk_count(const Case& k) { return ssd_chunks(k.runs, k.chunk).size(); }

// The runs that a case's chunks would be, each from a start of its own.
Runs chunks_as_runs(const Case& k) {
  Runs runs;
  for (const SsdChunk& chunk : ssd_chunks(k.runs, k.chunk))
    runs.push_back({.row = chunk.row, .begin = chunk.begin, .length = chunk.length});
  return runs;
}

// The whole scan from the states before the runs (empty: zeros). Gives {y, the state after each run}.
Vars scan(const Vars& x, const Case& k, const Var& start) {
  const SsdInputs in = inputs(x, k);
  const SsdStates states = ssd_chunk_states(in);
  const Vars folded = testing::affine_scan(states.decay, states.local, start, ssd_first_chunks(k.runs, k.chunk));
  return {ssd_chunk_outputs(in, folded[0]), folded[1]};
}

TEST(SsdChunks, CutEachRunFromItsStart) {
  const Runs runs = {{.row = 1, .begin = 2, .length = 5}, {.row = 0, .begin = 0, .length = 0}, {.row = 0, .begin = 0, .length = 4}};
  const auto chunks = ssd_chunks(runs, 2);
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[2].row, 1);
  EXPECT_EQ(chunks[2].begin, 6);
  EXPECT_EQ(chunks[2].length, 1);
  EXPECT_EQ(chunks[2].run, 0);
  EXPECT_EQ(chunks[4].begin, 2);
  EXPECT_EQ(chunks[4].run, 2);
  EXPECT_EQ(ssd_first_chunks(runs, 2), (std::vector<int64_t>{0, 3, 3, 5}));
}

TEST(SsdChunkStates, MatchTheRecurrenceOverEachChunk) {
  for (const Case& k : cases()) {
    const Inputs in(k);
    const SsdStates given = ssd_chunk_states(inputs(constants(in), k));
    const auto expected = definition(in, k).scan(chunks_as_runs(k), {});
    EXPECT_TENSOR_NEAR(given.local.data(), Tensor::from(states_shape(k, chunk_count(k)), expected.states), 1e-10) << k.name;
    EXPECT_TENSOR_NEAR(given.decay.data(), Tensor::from(given.decay.shape(), expected.decay), 1e-10) << k.name;
  }
}

TEST(SsdChunkOutputs, MatchTheRecurrenceOverEachChunk) {
  for (const Case& k : cases()) {
    const Inputs in(k);
    const Tensor h0 = random_tensor(states_shape(k, chunk_count(k)), 6);
    const auto from_h0 = definition(in, k).scan(chunks_as_runs(k), h0.to_vector<double>());
    const auto from_zero = definition(in, k).scan(chunks_as_runs(k), {});
    EXPECT_TENSOR_NEAR(ssd_chunk_outputs(inputs(constants(in), k), h0).data(), Tensor::from(in.v.shape(), from_h0.y), 1e-10) << k.name;
    EXPECT_TENSOR_NEAR(ssd_chunk_outputs(inputs(constants(in), k), Var()).data(), Tensor::from(in.v.shape(), from_zero.y), 1e-10) << k.name;
  }
}

TEST(SsdChunkOutputs, DoTheirWorkInsideTheChunksBeforeTheyReadTheEnteringState) {
  const Case k = cases()[4];
  const Inputs in(k);
  const Tensor arriving = random_tensor(states_shape(k, chunk_count(k)), 6), h0 = empty_like(arriving);
  const auto expected = definition(in, k).scan(chunks_as_runs(k), arriving.to_vector<double>());
  // The state arrives when it is first read; by then b is of no more use.
  h0.storage()->pend([&] {
    std::copy_n(arriving.data<double>(), arriving.numel(), static_cast<double*>(h0.storage()->block()));
    in.b.fill(0);
  });
  EXPECT_TENSOR_NEAR(ssd_chunk_outputs(inputs(constants(in), k), h0).data(), Tensor::from(in.v.shape(), expected.y), 1e-10);
}

TEST(SsdChunkOutputs, AreTheSameWhenTheEnteringStateIsStillOnItsWay) {
  auto all = cases();
  all.push_back(kLarge);
  for (const Case& k : all)
    for (const auto& [dtype, tolerance] : {std::pair{DType::kFloat64, 1e-14}, {DType::kFloat32, 1e-6}, {DType::kBFloat16, 4e-3}}) {
      for (const Device device : testing::devices()) {
        if (device.is_cuda() && dtype == DType::kFloat64) continue;
        const Inputs in(k);
        Vars x;
        for (const Tensor& activation : {in.v, in.dt, in.b, in.c}) x.push_back(testing::on(device, activation.to(dtype)));
        for (const Tensor& weight : {in.a_log, in.dt_bias, in.d_skip}) x.push_back(weight.to(DType::kFloat32).to(wide(dtype)).to(device));
        const Tensor h0 = random_tensor(states_shape(k, chunk_count(k)), 6).to(DType::kFloat32).to(wide(dtype)).to(device);
        const Tensor pending = empty_like(h0);
        pending.pend([&](const Tensor& to) { to.copy_from(h0); });
        const Tensor there = ssd_chunk_outputs(inputs(x, k), h0).data();
        EXPECT_TENSOR_NEAR(ssd_chunk_outputs(inputs(x, k), pending).data(), there, tolerance) << k.name << ", " << name_of(dtype);
      }
    }
}

TEST(Ssd, MatchesTheRecurrenceOverWholeRuns) {
  for (const Case& k : cases()) {
    const Inputs in(k);
    const Tensor start = random_tensor(states_shape(k, k.runs.size()), 7);
    for (const Tensor& from : {start, Tensor()}) {
      const auto expected = definition(in, k).scan(k.runs, from ? from.to_vector<double>() : std::vector<double>());
      const Vars given = scan(constants(in), k, from);
      EXPECT_TENSOR_NEAR(given[0].data(), Tensor::from(in.v.shape(), expected.y), 1e-10) << k.name;
      EXPECT_TENSOR_NEAR(given[1].data(), Tensor::from(start.shape(), expected.states), 1e-10) << k.name;
    }
  }
}

TEST(SsdChunkStates, BackwardMatchesFiniteDifferences) {
  for (const Case& k : cases()) {
    SCOPED_TRACE(k.name);
    const auto states = [&](const Vars& x) {
      const SsdStates states = ssd_chunk_states(inputs(x, k));
      return Vars{states.decay, states.local};
    };
    testing::expect_gradients(Inputs(k).arguments(), states);
    for (const int unused : {0, 1})
      testing::expect_gradients(Inputs(k).arguments(), [&](const Vars& x) { return Vars{states(x)[1 - unused]}; });
  }
}

TEST(SsdChunkOutputs, BackwardMatchesFiniteDifferences) {
  for (const Case& k : cases()) {
    SCOPED_TRACE(k.name);
    auto arguments = Inputs(k).arguments();
    testing::expect_gradients(arguments, [&](const Vars& x) { return Vars{ssd_chunk_outputs(inputs(x, k), Var())}; });
    arguments.push_back({"h0", random_tensor(states_shape(k, chunk_count(k)), 6)});
    testing::expect_gradients(arguments, [&](const Vars& x) { return Vars{ssd_chunk_outputs(inputs(x, k), x[7])}; });
    arguments.back().kind = Argument::kConstant;
    testing::expect_gradients(arguments, [&](const Vars& x) { return Vars{ssd_chunk_outputs(inputs(x, k), x[7])}; });
  }
}

TEST(Ssd, BackwardMatchesFiniteDifferences) {
  for (const Case& k : cases()) {
    SCOPED_TRACE(k.name);
    auto arguments = Inputs(k).arguments();
    arguments.push_back({"start", random_tensor(states_shape(k, k.runs.size()), 7)});
    testing::expect_gradients(arguments, [&](const Vars& x) { return scan(x, k, x[7]); });
  }
}

// {y, last state, dv, d_dt, db, dc, d_start, d_a_log, d_dt_bias, d_d_skip}
Tensors forward_backward(const Case& k, const Inputs& in, DType dtype) {
  Tape tape;
  Vars x;
  for (const Tensor& activation : {in.v, in.dt, in.b, in.c}) x.push_back(tape.input(activation.to(dtype)));
  for (const Tensor& weight : {in.a_log, in.dt_bias, in.d_skip}) x.push_back(parameter("weight", weight.to(wide(dtype))));
  const Shape start = states_shape(k, k.runs.size());
  const Vars out = scan(x, k, tape.input(random_tensor(start, 7).to(DType::kFloat32).to(wide(dtype))));
  Tensors results = {out[0].data(), out[1].data()};
  const Tensors seeds = {random_tensor(in.v.shape(), 8).to(DType::kBFloat16).to(dtype),
                         random_tensor(start, 9).to(DType::kFloat32).to(wide(dtype))};
  for (const Tensor& gradient : tape.backward(out, seeds)) results.push_back(gradient);
  for (int i = 4; i < 7; ++i) results.push_back(x[i].leaf()->grad);
  return results;
}

TEST(Ssd, LowerPrecisionsMatchDouble) {
  auto all = cases();
  all.push_back(kLarge);
  for (const Case& k : all) {
    Inputs in(k);
    for (Tensor* x : {&in.v, &in.dt, &in.b, &in.c}) *x = x->to(DType::kBFloat16).to(DType::kFloat64);
    for (Tensor* x : {&in.a_log, &in.dt_bias, &in.d_skip}) *x = x->to(DType::kFloat32).to(DType::kFloat64);
    const Tensors exact = forward_backward(k, in, DType::kFloat64), single = forward_backward(k, in, DType::kFloat32),
                  half = forward_backward(k, in, DType::kBFloat16);
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_TENSOR_NEAR(single[i], exact[i], 1e-5) << k.name << ", result " << i;
      EXPECT_TENSOR_NEAR(half[i], exact[i], i < 2 ? 1e-2 : 2e-2) << k.name << ", result " << i;
    }
  }
}

// What only large operands meet: chunks of several tiles, the last of them cut; widths and states that no tile divides, or that several
// hold.
std::vector<Case> many_tiles() {
  const auto row = [](int64_t tokens) { return Runs{{.length = tokens}}; };
  return {
      {"several blocks of tokens", 1, 150, 2, 24, 1, 40, 150, row(150)},
      {"several tiles of a state", 1, 70, 2, 72, 1, 136, 70, row(70)},
      {"states beyond what a block of threads holds", 1, 20, 1, 8, 1, 272, 20, row(20)},
      {"documents",
       2,
       100,
       6,
       16,
       2,
       16,
       64,
       {{.length = 99}, {.begin = 99, .length = 1}, {.row = 1, .length = 30}, {.row = 1, .begin = 30, .length = 70}}},
  };
}

// Operands in `dtype`, parameters and h0 in fp32.
std::vector<Argument> narrow_arguments(const Case& k, DType dtype, bool packed, double steps, double bias) {
  Inputs in(k, steps);
  in.dt_bias.add(Tensor::full(in.dt_bias.shape(), bias, DType::kFloat64));
  for (Tensor* x : {&in.v, &in.b, &in.c}) {
    const Tensor narrow = x->to(dtype);
    if (packed) {
      *x = narrow;
      continue;
    }
    *x = Tensor::empty(x->shape().with(-1, x->dim(-1) + 1), dtype).narrow(-1, 1, x->dim(-1));
    x->copy_from(narrow);
  }
  in.dt = in.dt.to(dtype);
  for (Tensor* x : {&in.a_log, &in.dt_bias, &in.d_skip}) *x = x->to(DType::kFloat32);
  std::vector<Argument> arguments = in.arguments();
  arguments.push_back({"h0", random_tensor(states_shape(k, chunk_count(k)), 6).to(DType::kFloat32)});
  return arguments;
}

void expect_narrow_precision(const Case& k, double steps = 1, double bias = 0) {
  for (const auto& [dtype, output, gradient] : {std::tuple{DType::kFloat32, 1e-5, 1e-5}, {DType::kBFloat16, 1e-2, 2e-2}})
    for (const bool packed : {true, false}) {
      SCOPED_TRACE(std::string(k.name) + ", " + name_of(dtype) + (packed ? "" : ", slices"));
      auto arguments = narrow_arguments(k, dtype, packed, steps, bias);
      const auto outputs = [&](const Vars& x) { return Vars{ssd_chunk_outputs(inputs(x, k), x[7])}; };
      testing::expect_precision(arguments, outputs, output, gradient);
      arguments.pop_back();
      testing::expect_precision(
          arguments, [&](const Vars& x) { return Vars{ssd_chunk_outputs(inputs(x, k), Var())}; }, output, gradient);
      arguments.pop_back();  // states know no skip and no c
      arguments.erase(arguments.begin() + 3);
      const auto states = [&](const Vars& x) {
        const SsdStates states = ssd_chunk_states(inputs({x[0], x[1], x[2], Var(), x[3], x[4], Var()}, k));
        return Vars{states.decay, states.local};
      };
      testing::expect_precision(arguments, states, output, gradient);
    }
}

TEST(Ssd, LowerPrecisionsMatchDoubleOnEveryDevice) {
  for (const Case& k : cases()) expect_narrow_precision(k);
  expect_narrow_precision(kLarge);
}

TEST(Ssd, LowerPrecisionsMatchDoubleOverManyTiles) {
  for (const Case& k : many_tiles()) expect_narrow_precision(k);
}

// Steps of some hundredths, so that tokens know of each other over several blocks.
TEST(Ssd, KeepsItsPrecisionWhereStatesDecaySlowly) {
  expect_narrow_precision({"slow decays", 1, 200, 2, 8, 1, 16, 200, {{.length = 200}}}, 1, -5);
}

TEST(Ssd, KeepsItsPrecisionWhereStatesDecayFast) {
  const Inputs in(kLarge, 50);  // steps up to 50, so that the decays of a chunk add up to thousands
  const Tensors exact = forward_backward(kLarge, in, DType::kFloat64), single = forward_backward(kLarge, in, DType::kFloat32);
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_TENSOR_NEAR(single[i], exact[i], 1e-5) << "result " << i;
  expect_narrow_precision(kLarge, 50);
}

TEST(Ssd, RemembersPreciselyWhatFollowsAReset) {
  const Case k = {"reset", 1, 64, 2, 8, 1, 8, 64, {{.length = 64}}};
  Inputs in(k);
  in.dt.narrow(1, 0, 20).fill(100);  // wipes the state out; the decays of the chunk add up to thousands
  in.d_skip.fill(0);
  const Tensor exact = ssd_chunk_outputs(inputs(constants(in), k), Var()).data();
  for (const Device device : testing::devices()) {
    Vars x;
    for (const Var& operand : constants(in)) x.push_back(operand.data().to(DType::kFloat32).to(device));
    const Tensor single = ssd_chunk_outputs(inputs(x, k), Var()).data();
    EXPECT_TENSOR_NEAR(single.narrow(1, 20, 44).to(Cpu{}), exact.narrow(1, 20, 44), 3e-6)
        << (device.is_cuda() ? "on the GPU" : "on the host");
  }
}

TEST(Ssd, GivesTheSameBitsForAnyNumberOfThreads) {
  const Inputs in(kLarge);
  omp_set_num_threads(1);
  const Tensors one = forward_backward(kLarge, in, DType::kFloat32);
  omp_set_num_threads(2);
  const Tensors two = forward_backward(kLarge, in, DType::kFloat32);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].to_vector<float>(), two[i].to_vector<float>()) << "result " << i;
}

TEST(Ssd, AddsToTheGradientsOfItsParameters) {
  const Case k = cases()[5];
  const Inputs in(k);
  const Vars weights = {parameter("a_log", in.a_log), parameter("dt_bias", in.dt_bias), parameter("d_skip", in.d_skip)};
  Tensors once;
  for (const int use : {1, 2}) {
    Tape tape;
    const Vars out =
        scan({tape.input(in.v), tape.input(in.dt), tape.input(in.b), tape.input(in.c), weights[0], weights[1], weights[2]}, k, Var());
    tape.backward({out[0]}, {random_tensor(in.v.shape(), 8)});
    for (const Var& weight : weights)
      if (use == 1) once.push_back(weight.leaf()->grad.contiguous_copy());
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    once[i].add(once[i].contiguous_copy());
    EXPECT_TENSOR_NEAR(weights[i].leaf()->grad, once[i], 1e-12) << weights[i].leaf()->name;
  }
}

TEST(Ssd, TakesEmptyTensors) {
  const Case none{"no tokens", 2, 0, 2, 3, 1, 4, 8, {}};
  EXPECT_EQ(forward_backward(none, Inputs(none), DType::kFloat32)[0].shape(), (Shape{2, 0, 2, 3}));
  Case k = cases()[1];
  Inputs no_state(k), no_width(k);
  no_state.b = no_state.c = Tensor::zeros({k.rows, k.tokens, k.groups, 0}, DType::kFloat64);
  no_width.v = Tensor::zeros({k.rows, k.tokens, k.heads, 0}, DType::kFloat64);
  k.state = 0;
  EXPECT_EQ(forward_backward(k, no_state, DType::kBFloat16)[0].shape(), (Shape{k.rows, k.tokens, k.heads, k.width}));
  k.width = 0;
  k.state = 2;
  EXPECT_EQ(forward_backward(k, no_width, DType::kFloat32)[0].shape(), (Shape{k.rows, k.tokens, k.heads, 0}));
}

TEST(Ssd, TakesEmptyTensorsOnEveryDevice) {
  const Case none{"no tokens", 2, 0, 2, 3, 1, 4, 8, {}};
  Case no_state = cases()[5], no_width = no_state;
  no_state.state = no_width.width = 0;
  for (const Case& k : {none, no_state, no_width}) {
    const Shape tokens{k.rows, k.tokens}, heads{k.heads};
    const std::vector<Argument> arguments = {{"v", random_tensor(tokens.then({k.heads, k.width}), 1, 1, DType::kFloat32)},
                                             {"dt", random_tensor(tokens.then({k.heads}), 2, 1, DType::kFloat32)},
                                             {"b", random_tensor(tokens.then({k.groups, k.state}), 3, 1, DType::kFloat32)},
                                             {"c", random_tensor(tokens.then({k.groups, k.state}), 4, 1, DType::kFloat32)},
                                             {"a_log", random_tensor(heads, 5, 1, DType::kFloat32), Argument::kParameter},
                                             {"dt_bias", random_tensor(heads, 6, 1, DType::kFloat32), Argument::kParameter},
                                             {"d_skip", random_tensor(heads, 7, 1, DType::kFloat32), Argument::kParameter},
                                             {"h0", random_tensor(states_shape(k, chunk_count(k)), 8, 1, DType::kFloat32)}};
    const auto all = [&](const Vars& x) {
      const SsdStates states = ssd_chunk_states(inputs(x, k));
      return Vars{states.decay, states.local, ssd_chunk_outputs(inputs(x, k), x[7])};
    };
    testing::expect_precision(arguments, all, 1e-5, 1e-5);
  }
}

TEST(Ssd, RefusesOperandsThatDoNotFit) {
  const Case k = cases()[6];
  const auto expect_refused = [&](int argument, const Tensor& value) {
    Vars x = constants(Inputs(k));
    x[argument] = value;
    EXPECT_THROW(ssd_chunk_outputs(inputs(x, k), Var()), ShapeError) << "argument " << argument;
  };
  for (int argument = 0; argument < 7; ++argument) expect_refused(argument, random_tensor({2, 9, 3, 3}, 1));
  expect_refused(4, random_tensor({k.heads}, 3).to(DType::kFloat32));
  Case uncovered = k;
  uncovered.runs.pop_back();
  EXPECT_THROW(ssd_chunk_states(inputs(constants(Inputs(k)), uncovered)), ShapeError);
  EXPECT_THROW(ssd_chunk_outputs(inputs(constants(Inputs(k)), k), random_tensor(states_shape(k, 1), 6)), ShapeError);
}

}  // namespace
}  // namespace ropewalk
