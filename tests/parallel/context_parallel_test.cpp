// On one rank: several pieces a row, and decoding. tests/parallel/ranks has the same moves over ranks.
#include "parallel/context_parallel/context_parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/context_parallel/cached_keys.h"
#include "tests/support/finite_difference.h"

namespace ropewalk {
namespace {

using testing::random_tensor;
using testing::relative_error;

const ContextParallel kOneRank;

TEST(EnterHalo, BackwardMatchesFiniteDifferences) {
  const ContextParallel cp{.group = {}, .pieces = 4};
  const Microbatch batch{.layout = make_layout({{0, 5}, {0, 1, 4}}, 8, 0, 1, 4, 0), .tokens_BS = {}, .targets_BS = {}};
  const Context ctx{.batch = batch, .cp = cp, .dtype = DType::kFloat64, .states = {}};
  testing::expect_gradients({{"x", random_tensor({2, 8, 3}, 1)}}, [&](const Vars& in) { return Vars{enter_halo(in[0], 3, ctx, 0)}; });
}

TEST(EnterState, BackwardMatchesFiniteDifferences) {
  const ContextParallel cp{.group = {}, .pieces = 2};
  const Microbatch batch{.layout = make_layout({{0, 3}, {0}}, 8, 0, 1, 2, 0), .tokens_BS = {}, .targets_BS = {}};
  const Context ctx{.batch = batch, .cp = cp, .dtype = DType::kFloat64, .states = {}};
  const std::vector<int64_t> first_chunk = {0, 2, 3, 5, 8, 9};  // runs: 3, 1 and 4 tokens; 4 and 4
  testing::expect_gradients({{"decay", random_tensor({9, 2}, 1)}, {"local", random_tensor({9, 2, 1, 3}, 2)}}, [&](const Vars& in) {
    return Vars{enter_state({in[0], in[1]}, first_chunk, ctx, 0)};
  });
}

TEST(EnterState, AsksForTheChunksOfEachRun) {
  const Microbatch batch{.layout = make_layout({{0, 3}}, 8, 0, 1, 1, 0), .tokens_BS = {}, .targets_BS = {}};
  const Context ctx{.batch = batch, .cp = kOneRank, .dtype = DType::kFloat64, .states = {}};
  const SsdStates states{random_tensor({3, 2}, 1), random_tensor({3, 2, 2, 3}, 2)};
  EXPECT_THAT(
      [&] {
        enter_state(states, {0, 3}, ctx, 0);
      },
      ::testing::ThrowsMessage<ShapeError>(::testing::HasSubstr("first_chunk: expected 3 entries, given 2")));
}

// Decoding a sequence of kTokens in calls of these lengths.
constexpr int64_t kTokens = 12, kRows = 2;
const std::vector<int64_t> kCalls = {5, 1, 1, 3, 2};

template <class Body>
void for_each_call(State& state, const Body& body) {
  int64_t before = 0;
  for (const int64_t length : kCalls) {
    const Microbatch batch{.layout = make_decode_layout(kRows, length, before), .tokens_BS = {}, .targets_BS = {}};
    body(Context{.batch = batch, .cp = kOneRank, .dtype = DType::kFloat64, .states = {&state, 1}}, before, length);
    before += length;
    EXPECT_EQ(state.length, before);
  }
}

TEST(Decoding, HaloIsTheTailOfWhatWasSeen) {
  const int64_t width = 3;
  const Tensor x = random_tensor({kRows, kTokens, 4}, 1), padded = concat({Tensor::zeros({kRows, width, 4}, x.dtype()), x}, 1);
  State state{.tensors = {Tensor::zeros({kRows, width, 4}, x.dtype())}};
  for_each_call(state, [&](const Context& ctx, int64_t before, int64_t length) {
    const Var halo = enter_halo(x.narrow(1, before, length), width, ctx, 0);
    EXPECT_EQ(halo.data().to_vector<double>(), padded.narrow(1, before, width).to_vector<double>());
  });
}

TEST(Decoding, StateIsTheScanSoFar) {
  // A chunk a token.
  const Tensor decay = random_tensor({kRows, kTokens, 2}, 1), local = random_tensor({kRows, kTokens, 2, 3, 4}, 2);
  const auto chunks = [](const Tensor& x, int64_t before, int64_t length) {
    const Tensor part = x.narrow(1, before, length).contiguous_copy();
    return part.reshape(x.rank() == 3 ? Shape{kRows * length, 2} : Shape{kRows * length, 2, 3, 4});
  };
  const Microbatch whole{.layout = make_layout({{0}, {0}}, kTokens, 0, 1, 1, 0), .tokens_BS = {}, .targets_BS = {}};
  const Context at_once{.batch = whole, .cp = kOneRank, .dtype = DType::kFloat64, .states = {}};
  const Tensor expected = enter_state({chunks(decay, 0, kTokens), chunks(local, 0, kTokens)}, {0, kTokens, 2 * kTokens}, at_once, 0)
                              .data()
                              .reshape(local.shape());

  State state{.tensors = {{}, random_tensor({kRows, 2, 3, 4}, 3)}};  // nothing enters a sequence that begins
  for_each_call(state, [&](const Context& ctx, int64_t before, int64_t length) {
    const Var h0 = enter_state({chunks(decay, before, length), chunks(local, before, length)}, {0, length, 2 * length}, ctx, 1);
    EXPECT_LT(relative_error(h0.data(), chunks(expected, before, length)), 1e-15);
  });
}

// Keys whose values are their positions; a cache of `capacity`.
void expect_keys_from_cache(const std::optional<int64_t>& window, int64_t capacity) {
  SCOPED_TRACE(fmt::format("window {}, capacity {}", window.value_or(0), capacity));
  const Tensor k = Tensor::empty({kRows, kTokens, 1, 2}, DType::kFloat64);
  for (int64_t i = 0; i < k.numel(); ++i) k.data<double>()[i] = static_cast<double>(i / 2 % kTokens);
  const Tensor v = k.contiguous_copy();
  v.add(k);
  const Tensor cache = Tensor::full({kRows, capacity, 1, 2}, -1, DType::kFloat64);
  State state{.tensors = {cache, cache.contiguous_copy()}};
  for_each_call(state, [&](const Context& ctx, int64_t before, int64_t length) {
    const KeyValues kv = cached_keys(k.narrow(1, before, length), v.narrow(1, before, length), window, ctx, 0);
    ASSERT_EQ(kv.spans.size(), 2u);
    for (const QueryRun& queries : kv.spans) {
      EXPECT_EQ(queries.position, before);
      ASSERT_EQ(queries.keys.size(), 1u);
      const KeyRun& keys = queries.keys[0];
      EXPECT_LE(keys.position, window ? std::max<int64_t>(0, before - *window + 1) : 0);
      EXPECT_EQ(keys.position + keys.length, before + length);
      for (int64_t i = 0; i < keys.length; ++i) {
        EXPECT_EQ(kv.k.select(0, queries.row).select(0, keys.begin + i).select(-1, 1).item(), keys.position + i);
        EXPECT_EQ(kv.v.select(0, queries.row).select(0, keys.begin + i).select(-1, 0).item(), 2 * (keys.position + i));
      }
    }
  });
}

TEST(Decoding, KeysStandBehindTheCachedOnes) {
  expect_keys_from_cache({}, kTokens);
  expect_keys_from_cache({}, kTokens + 3);
}

TEST(Decoding, AWindowNeedsNoMoreThanItself) {
  for (const int64_t window : {1, 2, 4, 6})
    for (const int64_t capacity : {window - 1, window, window + 1, int64_t{7}, kTokens})
      if (capacity > 0 && capacity >= window - 1) expect_keys_from_cache(window, capacity);
}

TEST(Decoding, NamesACacheThatIsFull) {
  const Tensor cache = Tensor::zeros({1, 4, 1, 2}, DType::kFloat64), k = Tensor::zeros({1, 3, 1, 2}, DType::kFloat64);
  State state{.tensors = {cache, cache}};
  const Microbatch batch{.layout = make_decode_layout(1, 3, 2), .tokens_BS = {}, .targets_BS = {}};
  const Context ctx{.batch = batch, .cp = kOneRank, .dtype = DType::kFloat64, .states = {&state, 1}};
  EXPECT_THAT([&] { cached_keys(k, k, {}, ctx, 0); },
              ::testing::ThrowsMessage<ShapeError>(::testing::HasSubstr("a cache of 4 tokens, given 3 behind 2")));
}

}  // namespace
}  // namespace ropewalk
