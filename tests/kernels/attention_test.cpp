#include "kernels/attention/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "tests/reference/attention.h"
#include "tests/support/finite_difference.h"
#include "tests/support/precision.h"

namespace ropewalk {
namespace {

using testing::random_tensor;

// Neighbouring tokens of one document in a tensor of queries or of keys.
struct Piece {
  int64_t row, begin, length, document, position = 0;
};

struct Case {
  std::string name;
  Shape q, k;  // [rows, tokens, heads, width]
  std::vector<Piece> queries, keys;
  std::optional<int64_t> window = {};
  int64_t cut = 0;  // every second run of queries gets its key runs in parts of this length

  AttentionOptions options() const { return {.scale = 0.7, .window = window}; }
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Queries are their own keys.
Case self(const std::string& name, const Shape& q, int64_t kv_heads, const std::vector<Piece>& pieces, std::optional<int64_t> window = {}) {
  return {name, q, q.with(2, kv_heads), pieces, pieces, window};
}

std::vector<Case> small_cases() {
  const std::vector<Piece> packed = {{0, 0, 7, 0}, {0, 7, 1, 1}, {0, 8, 5, 2}, {1, 0, 13, 3}};
  const std::vector<Piece> gathered = {{0, 4, 4, 0, 12}, {0, 8, 4, 0, 4}, {0, 0, 4, 0, 0}, {0, 12, 4, 0, 8}};
  return {
      self("one token", {1, 1, 2, 3}, 1, {{0, 0, 1, 0}}),
      self("one head", {1, 9, 1, 4}, 1, {{0, 0, 9, 0}}),
      self("grouped 4:2", {2, 6, 4, 3}, 2, {{0, 0, 6, 0}, {1, 0, 6, 1}}),
      self("grouped 4:1", {1, 7, 4, 3}, 1, {{0, 0, 7, 0}}),
      self("packed documents", {2, 13, 2, 3}, 1, packed),
      self("window 1", {2, 13, 2, 3}, 2, packed, 1),
      self("window 3", {2, 13, 2, 3}, 2, packed, 3),
      self("window beyond the length", {2, 13, 2, 3}, 2, packed, 1000),
      {"cached prefix", {1, 4, 2, 3}, {2, 12, 1, 3}, {{0, 0, 4, 0, 5}}, {{1, 6, 4, 0, 5}, {1, 0, 5, 0, 0}}},
      {"cached prefix in a window", {1, 2, 2, 3}, {1, 12, 1, 3}, {{0, 0, 2, 0, 8}}, {{0, 0, 8, 0, 0}, {0, 9, 2, 0, 8}}, 4},
      {"gathered pieces", {1, 8, 2, 3}, {1, 16, 1, 3}, {{0, 0, 4, 0, 0}, {0, 4, 4, 0, 12}}, gathered},
      {"decode", {1, 1, 4, 3}, {1, 11, 2, 3}, {{0, 0, 1, 0, 10}}, {{0, 0, 11, 0, 0}}},
      {"tokens of no run, keys of nobody, queries without keys",
       {1, 9, 2, 3},
       {1, 9, 1, 3},
       {{0, 1, 3, 0, 0}, {0, 4, 2, 7, 0}, {0, 6, 2, 2, 0}},
       {{0, 0, 3, 0, 1}, {0, 5, 2, 2, 5}}},
  };
}

std::vector<Case> cases() {
  std::vector<Case> all = small_cases();
  const std::vector<Piece> packed = {{0, 0, 70, 0}, {0, 70, 1, 1}, {0, 71, 79, 2}, {1, 0, 150, 3}};
  const std::vector<Piece> gathered = {{0, 60, 60, 0, 180}, {0, 120, 60, 0, 60}, {0, 0, 60, 0, 0}, {0, 180, 60, 0, 120}};
  const Shape q = {1, 120, 2, 5}, k = {1, 240, 1, 5};
  const std::vector<Case> large = {
      self("many tiles", {1, 150, 2, 5}, 2, {{0, 0, 150, 0}}),
      self("many tiles, grouped 4:1", {1, 150, 4, 16}, 1, {{0, 0, 150, 0}}),
      self("a group that no tile is a multiple of", {1, 150, 6, 5}, 2, {{0, 0, 150, 0}}),
      self("a group larger than a tile", {1, 5, 70, 3}, 1, {{0, 0, 5, 0}}),
      self("many tiles, packed", {2, 150, 2, 5}, 1, packed),
      self("many tiles, window 3", {2, 150, 2, 5}, 1, packed, 3),
      self("many tiles, window 70", {2, 150, 2, 5}, 1, packed, 70),
      {"long cached prefix", {1, 70, 4, 5}, {2, 250, 2, 5}, {{0, 0, 70, 0, 133}}, {{1, 140, 70, 0, 133}, {1, 0, 133, 0, 0}}},
      {"long gathered pieces", q, k, {{0, 0, 60, 0, 0}, {0, 60, 60, 0, 180}}, gathered},
      {"gathered pieces in a window, cut in two ways", q, k, {{0, 0, 60, 0, 60}, {0, 60, 60, 0, 120}}, gathered, 90, 25},
      {"long decode", {1, 1, 4, 5}, {1, 200, 2, 5}, {{0, 0, 1, 0, 199}}, {{0, 0, 200, 0, 0}}},
  };
  all.insert(all.end(), large.begin(), large.end());
  // Documents that begin at odd places of the tiles of 64 tokens that operands are laid out in, in rows of several tiles.
  const std::vector<Piece> odd = {{0, 0, 37, 0}, {0, 37, 71, 1}, {0, 108, 3, 2}, {0, 111, 29, 3}};
  const Shape narrow = {1, 140, 4, 24};
  for (const int64_t width : {24, 64, 80, 128})
    all.push_back(self(fmt::format("odd documents, heads of width {}", width), narrow.with(3, width).with(2, 2), 2, odd));
  all.push_back(self("odd documents, grouped 4:1, window 20", narrow, 1, odd, 20));
  all.push_back(self("odd documents, grouped 4:1, window 100", narrow, 1, {{0, 3, 137, 0}}, 100));
  all.push_back(self("many rows", {5, 70, 2, 8}, 2, {{0, 0, 70, 0}, {3, 1, 66, 1}, {4, 0, 64, 2}, {4, 64, 6, 3}}));
  all.push_back({"rows that read each other's keys",
                 {3, 70, 2, 8},
                 {2, 90, 2, 8},
                 {{0, 0, 70, 0, 20}, {1, 0, 70, 1, 0}, {2, 3, 60, 0, 30}},
                 {{0, 0, 45, 0, 0}, {1, 40, 45, 0, 45}, {0, 45, 45, 1, 10}}});
  return all;
}

std::vector<KeyRun> key_runs(const Case& c, int64_t document, int64_t longest) {
  std::vector<KeyRun> runs;
  for (const Piece& keys : c.keys)
    for (int64_t at = 0; keys.document == document && at < keys.length; at += longest)
      runs.push_back({keys.row, keys.begin + at, std::min(longest, keys.length - at), keys.position + at});
  std::ranges::sort(runs, {}, &KeyRun::position);
  return runs;
}

Spans spans_of(const Case& c) {
  Spans spans;
  for (const Piece& queries : c.queries) {
    const int64_t longest = c.cut > 0 && spans.size() % 2 == 1 ? c.cut : c.k[1];
    spans.push_back({queries.row, queries.begin, queries.length, queries.position, key_runs(c, queries.document, longest)});
  }
  return spans;
}

reference::AttentionTokens tokens_of(const std::vector<Piece>& pieces, const Shape& shape) {
  reference::AttentionTokens labels(static_cast<size_t>(shape[0] * shape[1]));
  for (const Piece& piece : pieces)
    for (int64_t i = 0; i < piece.length; ++i)
      labels[static_cast<size_t>(piece.row * shape[1] + piece.begin + i)] = {piece.document, piece.position + i};
  return labels;
}

// A view with gaps after each token and before each row, as a slice of a fused projection has.
Tensor sliced(const Tensor& x) {
  const Tensor whole = Tensor::full({x.dim(0), x.dim(1) + 2, x.dim(2) + 3, x.dim(3)}, 1e3, x.dtype(), x.device());
  const Tensor view = whole.narrow(1, 1, x.dim(1)).narrow(2, 2, x.dim(2));
  view.copy_from(x);
  return view;
}

struct Inputs {
  Tensor q, k, v, dy;
  explicit Inputs(const Case& c, double scale = 1.0)
      : q(sliced(random_tensor(c.q, 1, scale))),
        k(sliced(random_tensor(c.k, 2, scale))),
        v(sliced(random_tensor(c.k, 3))),
        dy(sliced(random_tensor(c.q, 4))) {}
  Inputs to(DType dtype) const {
    return with([&](const Tensor& x) { return x.to(dtype); });
  }
  Inputs on(Device device) const {
    return with([&](const Tensor& x) { return device == x.device() ? x : sliced(x.to(device)); });
  }

 private:
  template <class Convert>
  Inputs with(const Convert& convert) const {
    Inputs converted = *this;
    for (Tensor* x : {&converted.q, &converted.k, &converted.v, &converted.dy}) *x = convert(*x);
    return converted;
  }
};

// The allocator hands these blocks out next, so that an element which the op leaves unwritten shows.
void leave_nan_in_freed_blocks(const Case& c, DType dtype, Device device) {
  Tensors dirty;
  for (const Shape& shape : {c.q, c.k, c.q, c.k})
    dirty.push_back(Tensor::full(shape, std::numeric_limits<double>::quiet_NaN(), dtype, device));
}

// y, dq, dk, dv.
Tensors run(const Case& c, const Inputs& in) {
  leave_nan_in_freed_blocks(c, in.q.dtype(), in.q.device());
  Tape tape;
  const Var q = tape.input(in.q), k = tape.input(in.k), v = tape.input(in.v);
  const Var y = attention(q, k, v, spans_of(c), c.options());
  Tensors results = tape.backward({y}, {in.dy});
  results.insert(results.begin(), y.data());
  return results;
}

const char* const kNames[] = {"y", "dq", "dk", "dv"};

// Where a query sees one key its softmax is 1 whatever the score: dq and dk are 0, and rounding alone is compared with the floor.
void expect_near(const Tensors& given, const Tensors& expected, double tolerance) {
  for (size_t i = 0; i < given.size(); ++i) EXPECT_LT(testing::relative_error(given[i], expected[i], 0.1), tolerance) << kNames[i];
}

// Key runs in three parts each, which go to three launches in turn.
std::vector<Spans> parts_of(const Spans& whole) {
  constexpr int64_t kParts = 3;
  std::vector<Spans> parts(kParts);
  for (const QueryRun& run : whole)
    for (int64_t part = 0; part < kParts; ++part) {
      QueryRun seeing = run;
      seeing.keys.clear();
      for (const KeyRun& keys : run.keys) {
        const int64_t begin = keys.length * part / kParts, end = keys.length * (part + 1) / kParts;
        seeing.keys.push_back({keys.row, keys.begin + begin, end - begin, keys.position + begin});
      }
      parts[static_cast<size_t>((part + run.begin) % kParts)].push_back(seeing);
    }
  return parts;
}

// y, dq, dk, dv, in the wide type, of launches that each see a part of the keys.
Tensors run_in_parts(const Case& c, const Inputs& in) {
  const std::vector<Spans> parts = parts_of(spans_of(c));
  const AttentionOptions options = c.options();
  const DType dtype = wide(in.q.dtype());
  const Device device = in.q.device();
  const Tensor y = Tensor::zeros(c.q, dtype, device);
  const Tensor lse = Tensor::full({c.q[0], c.q[2], c.q[1]}, std::numeric_limits<double>::infinity(), dtype, device);
  for (const Spans& spans : parts)
    launch(device,
           AttentionForward{.y = y, .lse = lse, .q = in.q, .k = in.k, .v = in.v, .spans = spans, .options = options, .merge = true});
  const Tensor dq = Tensor::zeros(c.q, dtype, device), dk = Tensor::zeros(c.k, dtype, device), dv = Tensor::zeros(c.k, dtype, device);
  const Tensor y_rounded = y.to(in.q.dtype()), part_of_dk = empty_like(dk), part_of_dv = empty_like(dv);
  for (const Spans& spans : parts) {
    launch(device, AttentionBackward{.dq = dq,
                                     .dk = part_of_dk,
                                     .dv = part_of_dv,
                                     .dy = in.dy,
                                     .q = in.q,
                                     .k = in.k,
                                     .v = in.v,
                                     .y = y_rounded,
                                     .lse = lse,
                                     .spans = spans,
                                     .options = options,
                                     .merge = true});
    dk.add(part_of_dk);
    dv.add(part_of_dv);
  }
  return {y, dq, dk, dv};
}

class AttentionCases : public ::testing::TestWithParam<Case> {};

void expect_definition(const Case& c, const Inputs& in, const Tensors& given) {
  const reference::Attention definition{.q = in.q,
                                        .k = in.k,
                                        .v = in.v,
                                        .queries = tokens_of(c.queries, c.q),
                                        .keys = tokens_of(c.keys, c.k),
                                        .scale = c.options().scale,
                                        .window = c.window};
  Tensors expected = definition.gradients(in.dy);
  expected.insert(expected.begin(), definition.y());
  expect_near(given, expected, 1e-10);
}

TEST_P(AttentionCases, FollowDefinition) {
  const Inputs in(GetParam());
  expect_definition(GetParam(), in, run(GetParam(), in));
}

TEST_P(AttentionCases, FollowDefinitionByParts) {
  const Inputs in(GetParam());
  expect_definition(GetParam(), in, run_in_parts(GetParam(), in));
}

// From one tile of keys to the next, so that what was summed before shrinks to nothing or nearly.
TEST(Attention, FollowsItsDefinitionWhereScoresRiseByMuch) {
  const Case c = self("", {1, 250, 2, 16}, 1, {{0, 0, 250, 0}});
  for (const double scale : {1.5, 4.0}) {
    const Inputs in(c, scale);
    expect_definition(c, in, run(c, in));
    expect_definition(c, in, run_in_parts(c, in));
  }
}

void expect_precision(const Case& c, Device device) {
  const Inputs in(c);
  const Inputs single = in.to(DType::kFloat32).on(device);
  const Tensors exact = run(c, in);
  expect_near(run(c, single), exact, 1e-5);
  expect_near(run_in_parts(c, single), exact, 1e-5);

  const Inputs rounded = in.to(DType::kBFloat16), there = rounded.on(device);
  const Tensors given = run(c, there), expected = run(c, rounded.to(DType::kFloat64));
  EXPECT_LT(testing::relative_error(given[0], expected[0]), 1e-2);
  expect_near(given, expected, 2e-2);
  expect_near(run_in_parts(c, there), expected, 2e-2);
}

TEST_P(AttentionCases, AreTheSameInFp32AndBf16) { expect_precision(GetParam(), Cpu{}); }

TEST_P(AttentionCases, AreTheSameOnGpu) {
  if (!available(Cuda{})) GTEST_SKIP() << "no GPU";
  expect_precision(GetParam(), Cuda{});
}

INSTANTIATE_TEST_SUITE_P(Attention, AttentionCases, ::testing::ValuesIn(cases()));

TEST(Attention, BackwardMatchesFiniteDifferences) {
  for (const Case& c : small_cases()) {
    SCOPED_TRACE(c.name);
    const Inputs in(c);
    const Spans spans = spans_of(c);
    testing::expect_gradients({{"q", in.q}, {"k", in.k}, {"v", in.v}},
                              [&](const Vars& x) { return Vars{attention(x[0], x[1], x[2], spans, c.options())}; });
  }
}

TEST(Attention, GivesTheSameBitsForAnyNumberOfThreads) {
  const Case c = self("", {2, 300, 4, 16}, 2, {{0, 0, 130, 0}, {0, 130, 170, 1}, {1, 0, 300, 2}});
  const Inputs in = Inputs(c).to(DType::kFloat32);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Tensors one = run(c, in);
  for (const int threads : {2, 3}) {  // of 4 units: with 3 threads all units are prepared first
    omp_set_num_threads(threads);
    const Tensors more = run(c, in);
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_EQ(std::memcmp(one[i].data<float>(), more[i].data<float>(), static_cast<size_t>(one[i].bytes())), 0) << kNames[i];
  }
  omp_set_num_threads(before);
}

// Tiles of every width of heads: odd ones, those of which a key's block has two parts, and those that one pack does not divide.
TEST(Attention, IsTheSameOnGpuForHeadsOfAnyWidth) {
  if (!available(Cuda{})) GTEST_SKIP() << "no GPU";
  for (const int64_t width : {1, 16, 63, 64, 65, 96, 136, 256}) {
    SCOPED_TRACE(width);
    expect_precision(self("", {1, 70, 2, width}, 1, {{0, 0, 3, 0}, {0, 3, 67, 1}}), Cuda{});
  }
  EXPECT_THROW(expect_precision(self("", {1, 7, 1, 257}, 1, {{0, 0, 7, 0}}), Cuda{}), ShapeError);
}

TEST(Attention, GivesTheSameBitsEachTimeOnGpu) {
  if (!available(Cuda{})) GTEST_SKIP() << "no GPU";
  const Case c = self("", {2, 300, 4, 16}, 2, {{0, 0, 130, 0}, {0, 130, 170, 1}, {1, 0, 300, 2}});
  const Inputs in = Inputs(c).to(DType::kBFloat16).on(Cuda{});
  const Tensors one = run(c, in), other = run(c, in);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].to_vector<float>(), other[i].to_vector<float>()) << kNames[i];
}

// A cache that is not full yet, and tokens between runs: what stands there must not be read.
TEST(Attention, DoesNotReadWhatNobodySees) {
  const Case c{"", {1, 140, 2, 16}, {1, 200, 1, 16}, {{0, 3, 100, 0, 60}}, {{0, 7, 60, 0, 0}, {0, 70, 100, 0, 60}}};
  for (const Device device : testing::devices())
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const Inputs clean = Inputs(c).to(dtype).on(device);
      const Tensors expected = run(c, clean);
      const double nan = std::numeric_limits<double>::quiet_NaN();
      for (const Tensor& x : {clean.q, clean.dy}) {
        x.narrow(1, 0, 3).fill(nan);
        x.narrow(1, 103, 37).fill(nan);
      }
      for (const Tensor& x : {clean.k, clean.v}) {
        x.narrow(1, 0, 7).fill(nan);
        x.narrow(1, 67, 3).fill(nan);
        x.narrow(1, 170, 30).fill(nan);
      }
      const Tensors given = run(c, clean);
      for (size_t i = 0; i < given.size(); ++i) EXPECT_EQ(testing::relative_error(given[i], expected[i]), 0) << kNames[i];
    }
}

TEST(Attention, StaysExactWhereExponentialsOverflow) {
  const Case c = self("", {1, 150, 2, 16}, 1, {{0, 0, 150, 0}});
  const Inputs in = Inputs(c, 30).to(DType::kFloat32);  // scores of some thousands
  for (const Device device : testing::devices()) expect_near(run(c, in.on(device)), run(c, in.to(DType::kFloat64)), 1e-3);
}

// From one tile of keys to the next, so that what was summed before shrinks to nothing or nearly.
TEST(Attention, IsTheSameOnGpuWhereScoresRiseByMuch) {
  if (!available(Cuda{})) GTEST_SKIP() << "no GPU";
  const Case c = self("", {1, 250, 2, 16}, 1, {{0, 0, 250, 0}});
  const Inputs in(c, 4);
  expect_near(run(c, in.to(DType::kFloat32).on(Cuda{})), run(c, in), 1e-5);
}

TEST(Attention, ComputesOnlyTheGradientsThatAreWanted) {
  const Case c = small_cases()[4];
  const Inputs in(c);
  const Tensors all = run(c, in);
  Tape tape;
  Var y = attention(tape.input(in.q), in.k, in.v, spans_of(c), c.options());
  EXPECT_EQ(testing::relative_error(tape.backward({y}, {in.dy})[0], all[1]), 0);
  y = attention(in.q, in.k, tape.input(in.v), spans_of(c), c.options());
  EXPECT_EQ(testing::relative_error(tape.backward({y}, {in.dy})[0], all[3]), 0);
}

TEST(Attention, TakesEmptyTensors) {
  struct Shapes {
    Shape q, k;
  };
  for (const auto& [q, k] : {Shapes{{0, 3, 2, 2}, {0, 3, 1, 2}},
                             {{1, 0, 2, 2}, {1, 0, 1, 2}},
                             {{1, 3, 2, 2}, {1, 0, 1, 2}},
                             {{1, 0, 2, 2}, {1, 3, 1, 2}},
                             {{1, 3, 2, 0}, {1, 3, 1, 0}}}) {
    const Case c{"", q, k, {}, {}};
    for (const Device device : testing::devices()) {
      const Tensors results = run(c, Inputs(c).to(DType::kFloat32).on(device));
      EXPECT_EQ(testing::relative_error(results[0], Tensor::zeros(q, DType::kFloat64)), 0);
      EXPECT_EQ(testing::relative_error(results[2], Tensor::zeros(k, DType::kFloat64)), 0);
    }
  }
}

void expect_error(const Case& c, const Case& spans, const std::string& message) {
  const Inputs in(c);
  try {
    attention(in.q, in.k, in.v, spans_of(spans), c.options());
    ADD_FAILURE() << "no error";
  } catch (const ShapeError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr(message));
  }
}

TEST(Attention, SaysWhatDoesNotFit) {
  const Case good = small_cases()[4];
  Case bad = good;
  bad.k[2] = 4;
  expect_error(bad, bad, "attention: k: expected a divisor of 2 heads (of q), given 4");
  bad = good;
  bad.window = 0;
  expect_error(bad, bad, "attention: window: expected at least 1, given 0");
  bad = good;
  bad.queries[1].begin = 13;
  expect_error(good, bad, "attention: spans: expected runs inside q [2, 13, 2, 3], given tokens [13, 14) of row 0");
  bad = good;
  bad.keys[3].row = 2;
  expect_error(good, bad, "attention: spans: expected runs inside k [2, 13, 1, 3], given tokens [0, 13) of row 2");
}

}  // namespace
}  // namespace ropewalk
