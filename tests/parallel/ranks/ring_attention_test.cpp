#include "parallel/context_parallel/ring_attention.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/tensor/philox.h"
#include "parallel/context_parallel/context_parallel.h"
#include "tests/reference/context.h"
#include "tests/support/finite_difference.h"
#include "tests/support/ranks.h"

namespace ropewalk {
namespace {

using reference::Begins;
using testing::random_tensor;
using testing::relative_error;
using testing::world;
using Window = std::optional<int64_t>;

constexpr int64_t kRows = 2, kTokens = 144;  // one to three pieces a rank, for up to four ranks (and one to three for eight)

struct Inputs {
  Tensor q, k, v, dy;
  explicit Inputs(int64_t heads = 4, int64_t kv_heads = 2, int64_t width = 5)
      : q(random_tensor({kRows, kTokens, heads, width}, 1)),
        k(random_tensor({kRows, kTokens, kv_heads, width}, 2)),
        v(random_tensor({kRows, kTokens, kv_heads, width}, 3)),
        dy(random_tensor({kRows, kTokens, heads, width}, 4)) {}
  template <class Change>
  Inputs with(const Change& change) const {
    Inputs changed = *this;
    for (Tensor* x : {&changed.q, &changed.k, &changed.v, &changed.dy}) *x = change(*x);
    return changed;
  }
  Inputs to(DType dtype) const {
    return with([&](const Tensor& x) { return x.to(dtype); });
  }
};

// Whole rows, dealt to the ranks of a group.
struct Dealt {
  Dealt(const Group& group, int64_t pieces, const Begins& begins, const Window& seen = {})
      : batch{.layout = make_layout(begins, kTokens, group.rank(), group.size(), pieces, 0), .tokens_BS = {}, .targets_BS = {}},
        cp{.group = group, .pieces = pieces},
        window(seen) {}

  Microbatch batch;
  ContextParallel cp;
  Window window;

  Tensor tokens(const Tensor& whole) const { return local_tokens(whole, cp.group.rank(), cp.group.size(), cp.pieces); }
  Inputs tokens(const Inputs& whole) const {
    return whole.with([&](const Tensor& x) { return tokens(x); });
  }
  Var attend(const Var& q, const Var& k, const Var& v, Pass* pass = nullptr) const {
    const Context ctx{.batch = batch, .cp = cp, .dtype = q.dtype(), .states = {}, .pass = pass};
    return context_attention(q, k, v, {.scale = 0.7, .window = window}, ctx, 0);
  }
  // y, dq, dk, dv.
  Tensors run(const Inputs& mine) const {
    Tape tape;
    const Var q = tape.input(mine.q), k = tape.input(mine.k), v = tape.input(mine.v);
    const Var y = attend(q, k, v);
    Tensors results = tape.backward({y}, {mine.dy});
    results.insert(results.begin(), y.data());
    return results;
  }
};

const char* const kNames[] = {"y", "dq", "dk", "dv"};

Begins random_documents(uint64_t seed) {
  const Philox random(seed, "documents");
  Begins begins(kRows, {0});
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t t = 1; t < kTokens; ++t)
      if (random.uniform(row * kTokens + t) < 0.02 * static_cast<double>(seed)) begins[row].push_back(t);
  return begins;
}

const Begins kOneDocument = {{0}, {0}};

std::vector<Begins> document_sets() {
  std::vector<Begins> sets = {
      kOneDocument,
      {{0, 1, 35, 36, 37, 72, 100}, {0, 71, 143}},         // before, on and after a cut
      {{0, 36, 72, 108}, {0, 18, 36, 54, 72, 90, 108}},    // on cuts only
      {{0, 5, 6, 7, 8, 9, 60, 61, 62, 130}, {0, 20, 70}},  // short ones beside long ones
  };
  for (const uint64_t seed : {1, 2, 20}) sets.push_back(random_documents(seed));
  return sets;
}

std::vector<Group> groups() { return {world(), world().split(world().rank() / 2), world().split(world().rank() / 3)}; }

void expect_one_ranks_results(const Dealt& dealt, const Begins& begins, const Inputs& whole, double tolerance) {
  const Tensors given = dealt.run(dealt.tokens(whole)), expected = Dealt(Group(), 1, begins, dealt.window).run(whole);
  for (size_t i = 0; i < given.size(); ++i) EXPECT_LT(relative_error(given[i], dealt.tokens(expected[i]), 1e-3), tolerance) << kNames[i];
}

TEST(RingAttention, IsThatOfOneRank) {
  const Inputs whole;
  for (const Group& group : groups())
    for (const int64_t pieces : {1, 2, 3})
      for (const Begins& begins : document_sets())
        for (const Window& window : {Window(), Window(1), Window(7), Window(50)}) {
          SCOPED_TRACE(fmt::format("{} ranks, {} pieces, documents {}, window {}", group.size(), pieces, ::testing::PrintToString(begins),
                                   window.value_or(0)));
          expect_one_ranks_results(Dealt(group, pieces, begins, window), begins, whole, 1e-12);
        }
}

TEST(RingAttention, TakesHeadsOfAnyWidthAndSharedByAnyNumber) {
  const Begins begins = {{0, 50}, {0}};
  for (const int64_t width : {1, 16, 40})
    for (const int64_t kv_heads : {1, 3, 6}) {
      SCOPED_TRACE(fmt::format("width {}, 6 heads over {}", width, kv_heads));
      expect_one_ranks_results(Dealt(world(), 2, begins), begins, Inputs(6, kv_heads, width), 1e-12);
    }
}

TEST(RingAttention, TakesSlicesOfAProjection) {
  const Dealt dealt(world(), 2, kOneDocument);
  const Inputs mine = dealt.tokens(Inputs());
  const Inputs sliced = mine.with([](const Tensor& x) { return concat({x, x, x}, 2).narrow(2, x.dim(2), x.dim(2)); });
  const Tensors given = dealt.run(sliced), expected = dealt.run(mine);
  for (size_t i = 0; i < given.size(); ++i) EXPECT_EQ(given[i].to_vector<double>(), expected[i].to_vector<double>()) << kNames[i];
}

// Against fp64 on the same rounded inputs; bounds as in tests/kernels/attention_test.cpp.
TEST(RingAttention, IsTheSameInFp32AndBf16) {
  for (const int64_t pieces : {1, 2}) {
    const Dealt dealt(world(), pieces, {{0, 50}, {0}});
    const Inputs mine = dealt.tokens(Inputs(4, 2, 32));
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const Inputs rounded = mine.to(dtype);
      const Tensors given = dealt.run(rounded), expected = dealt.run(rounded.to(DType::kFloat64));
      const bool bf16 = dtype == DType::kBFloat16;
      for (size_t i = 0; i < given.size(); ++i) {
        EXPECT_EQ(given[i].dtype(), dtype) << kNames[i];
        EXPECT_LT(relative_error(given[i], expected[i], 0.1), !bf16 ? 1e-5 : i == 0 ? 1e-2 : 2e-2) << kNames[i];
      }
    }
  }
}

TEST(RingAttention, GivesTheSameBitsWhoeverIsLate) {
  const Dealt dealt(world(), 2, {{0, 50}, {0}});
  const Inputs mine = dealt.tokens(Inputs()).to(DType::kFloat32);
  const Tensors expected = dealt.run(mine);
  for (int late = 0; late < world().size(); ++late) {
    if (world().rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const Tensors given = dealt.run(mine);
    for (size_t i = 0; i < given.size(); ++i)
      EXPECT_EQ(std::memcmp(given[i].raw(), expected[i].raw(), static_cast<size_t>(given[i].bytes())), 0) << kNames[i];
  }
}

TEST(RingAttention, ComputesOnlyTheGradientsThatAreWanted) {
  const Dealt dealt(world(), 2, {{0, 50}, {0}});
  const Inputs mine = dealt.tokens(Inputs());
  const Tensors all = dealt.run(mine);
  Tape tape;
  Var y = dealt.attend(tape.input(mine.q), mine.k, mine.v);
  EXPECT_EQ(relative_error(tape.backward({y}, {mine.dy})[0], all[1]), 0);
  y = dealt.attend(mine.q, mine.k, tape.input(mine.v));
  EXPECT_EQ(relative_error(tape.backward({y}, {mine.dy})[0], all[3]), 0);
}

// Blocks that this rank sends forward, and of blocks and gradients backward.
std::pair<int64_t, int64_t> blocks_sent(const Dealt& dealt) {
  const Inputs mine = dealt.tokens(Inputs());
  const Group& group = dealt.cp.group;
  const int64_t block = mine.k.bytes() + mine.v.bytes(), at_first = group.bytes_sent();
  Tape tape;
  const Var y = dealt.attend(tape.input(mine.q), tape.input(mine.k), tape.input(mine.v));
  const int64_t after_forward = group.bytes_sent();
  tape.backward({y}, {mine.dy});
  return {(after_forward - at_first) / block, (group.bytes_sent() - after_forward) / block};
}

TEST(RingAttention, SendsABlockNoFurtherThanSomeoneSeesIt) {
  using Blocks = std::pair<int64_t, int64_t>;
  const Group group = world().split(0);
  const int64_t rank = group.rank(), ranks = group.size(), piece = kTokens / ranks;
  std::vector<int64_t> cuts;
  for (int64_t r = 0; r < ranks; ++r) cuts.push_back(r * piece);
  const int64_t before_last = rank + 1 < ranks ? 1 : 0, behind_first = rank > 0 ? 1 : 0;
  // Nothing crosses a cut.
  EXPECT_EQ(blocks_sent(Dealt(group, 1, {cuts, cuts})), Blocks(0, 0));
  // Only what stands behind sees: the blocks of all ranks before this one pass by, and each gets its gradients sent on or home.
  EXPECT_EQ(blocks_sent(Dealt(group, 1, kOneDocument)), Blocks(before_last * (rank + 1), before_last * (rank + 1) + rank));
  // Only the next rank sees.
  EXPECT_EQ(blocks_sent(Dealt(group, 1, kOneDocument, piece / 2)), Blocks(before_last, before_last + behind_first));
  // All see all: a whole turn.
  EXPECT_EQ(blocks_sent(Dealt(group, 2, kOneDocument)), Blocks(ranks - 1, 2 * (ranks - 1)));
}

TEST(RingAttention, NeedsNoTrafficForTheReplay) {
  const Group group = world().split(0);
  const Dealt dealt(group, 2, {{0, 50}, {0}});
  const Inputs mine = dealt.tokens(Inputs());
  const auto run = [&](Recompute policy) {
    const int64_t before = group.bytes_sent();
    Tape tape;
    const Vars inputs = {tape.input(mine.q), tape.input(mine.k), tape.input(mine.v)};
    const Vars y = Tape::segment(
        {}, inputs, [&](const Vars& in, Pass& pass) { return Vars{dealt.attend(in[0], in[1], in[2], &pass)}; }, policy);
    Tensors results = tape.backward(y, {mine.dy});
    results.push_back(y[0].data());
    return std::pair{results, group.bytes_sent() - before};
  };
  const auto [once, bytes] = run(Recompute::kNone);
  const auto [again, bytes_again] = run(Recompute::kFull);
  EXPECT_EQ(bytes, bytes_again);
  for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(again[i].to_vector<double>(), once[i].to_vector<double>());
}

}  // namespace
}  // namespace ropewalk
