#include "parallel/context_parallel/context_parallel.h"

#include <gtest/gtest.h>

#include "kernels/tensor/philox.h"
#include "tests/reference/context.h"
#include "tests/support/finite_difference.h"
#include "tests/support/ranks.h"

namespace ropewalk {
namespace {

using reference::Begins;
using testing::random_tensor;
using testing::relative_error;
using testing::world;

constexpr int64_t kTokens = 48, kRows = 2;  // pieces of three tokens: four pieces on each of four ranks, two on each of eight
constexpr double kTolerance = 1e-12;

// A microbatch of whole rows, dealt to the ranks of a group.
struct Dealt {
  Dealt(const Group& group, int64_t pieces, const Begins& documents)
      : begins(documents),
        batch{.layout = make_layout(documents, kTokens, group.rank(), group.size(), pieces, 0), .tokens_BS = {}, .targets_BS = {}},
        cp{.group = group, .pieces = pieces} {}

  Begins begins;
  Microbatch batch;
  ContextParallel cp;

  Context context(Pass* pass = nullptr) const { return {.batch = batch, .cp = cp, .dtype = DType::kFloat64, .states = {}, .pass = pass}; }
  const Layout& layout() const { return batch.layout; }
  int64_t piece_length() const { return kTokens / (cp.group.size() * cp.pieces); }
  // Of values by token [B, T, ..], this rank's.
  Tensor tokens(const Tensor& whole) const { return local_tokens(whole, cp.group.rank(), cp.group.size(), cp.pieces); }
  // Of values by piece [B, T / piece, ..], this rank's by entering value.
  Tensor entering(const Tensor& whole) const {
    Tensors mine;
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t j = 0; j < cp.pieces; ++j)
        mine.push_back(whole.select(0, row).narrow(0, piece_of(cp.group.rank(), cp.group.size(), j), 1));
    return concat(mine, 0);
  }
};

Begins random_documents(uint64_t seed) {
  const Philox random(seed, "documents");
  Begins begins(kRows, {0});
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t t = 1; t < kTokens; ++t)
      if (random.uniform(row * kTokens + t) < 0.05 * static_cast<double>(1 + seed % 5)) begins[row].push_back(t);
  return begins;
}

std::vector<Begins> document_sets() {
  std::vector<Begins> sets = {
      {{0}, {0}},                                   // one document over all ranks
      {{0, 2, 3, 4, 24, 35, 47}, {0, 23, 24, 25}},  // before, on and after a cut
      {{0, 5, 6, 7, 41}, {0, 1, 2, 3, 17, 18}},     // documents of one token
      {{0, 24}, {0, 12, 24, 36}},                   // nothing crosses a cut of two ranks, of four
      {{0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45}, {0, 46}},
  };
  for (uint64_t seed = 0; seed < 8; ++seed) sets.push_back(random_documents(seed));
  return sets;
}

// Over one rank, two, four, .. all, one, two and four pieces a rank and row.
template <class Body>
void for_each_dealing(const Body& body) {
  std::vector<Group> groups = {Group()};
  for (int ranks = 2; ranks <= world().size(); ranks *= 2) groups.push_back(world().split(world().rank() / ranks));
  for (const Group& group : groups)
    for (int64_t pieces = 1; pieces <= 4 && group.size() * pieces <= 16; pieces *= 2)
      for (const Begins& begins : document_sets()) {
        SCOPED_TRACE(fmt::format("{} ranks, {} pieces, documents {}", group.size(), pieces, ::testing::PrintToString(begins)));
        body(Dealt(group, pieces, begins));
      }
}

// Each rank's piece of a row opens a document.
Begins documents_at_cuts() {
  Begins begins(kRows);
  for (std::vector<int64_t>& row : begins)
    for (int64_t rank = 0; rank < world().size(); ++rank) row.push_back(rank * kTokens / world().size());
  return begins;
}

TEST(EnterHalo, IsWhatStandsBeforeEachPiece) {
  const Tensor whole = random_tensor({kRows, kTokens, 3}, 1);
  for_each_dealing([&](const Dealt& dealt) {
    for (const int64_t width : {1, 3, 5}) {  // pieces are as short as three
      const Tensor d_halo = random_tensor({kRows, kTokens / dealt.piece_length(), width, 3}, 2);
      const Tensor expected = dealt.entering(reference::halo(whole, dealt.begins, dealt.piece_length(), width));
      Tape tape;
      const Var halo = enter_halo(tape.input(dealt.tokens(whole)), width, dealt.context(), 0);
      if (!halo) {
        EXPECT_EQ(expected.to_vector<double>(), zeros_like(expected).to_vector<double>());
        continue;
      }
      EXPECT_EQ(halo.data().to_vector<double>(), expected.to_vector<double>());
      const Tensors dx = tape.backward({halo}, {dealt.entering(d_halo)});
      const Tensor expected_dx = dealt.tokens(reference::halo(whole, dealt.begins, dealt.piece_length(), width, d_halo));
      EXPECT_LT(relative_error(dx[0], expected_dx), kTolerance);
    }
  });
}

TEST(EnterHalo, TakesASliceOfAProjection) {
  const Tensor whole = random_tensor({kRows, kTokens, 3}, 1);
  const Dealt dealt(world(), 2, {{0, 4}, {0}});
  const Tensor projection = concat({dealt.tokens(whole), dealt.tokens(whole)}, 2);
  const Var halo = enter_halo(Var(projection.narrow(2, 3, 3)), 4, dealt.context(), 0);
  EXPECT_EQ(halo.data().to_vector<double>(),
            dealt.entering(reference::halo(whole, dealt.begins, dealt.piece_length(), 4)).to_vector<double>());
}

TEST(EnterHalo, IsEmptyWhereNothingCanEnter) {
  const Var x = random_tensor({kRows, kTokens / world().size(), 3}, 1);
  const int64_t before = world().bytes_sent();
  EXPECT_FALSE(enter_halo(x, 0, Dealt(world(), 1, {{0}, {0}}).context(), 0));
  EXPECT_FALSE(enter_halo(x, 3, Dealt(world(), 1, documents_at_cuts()).context(), 0));
  EXPECT_EQ(world().bytes_sent(), before);
}

// A chunk a token, so that states can be told token by token: heads 2, states [1, 3].
struct States {
  Tensor decay, local;  // [B, T, H], [B, T, H, N]
  Tensor d_entering = random_tensor({kRows, kTokens, 2, 3}, 5);

  States() : decay(random_tensor({kRows, kTokens, 2}, 3)), local(random_tensor({kRows, kTokens, 2, 3}, 4)) {}
  static Tensor chunks(const Dealt& dealt, const Tensor& whole) {
    const Tensor mine = dealt.tokens(whole);
    const int64_t chunks = mine.dim(0) * mine.dim(1);
    return mine.reshape(mine.rank() == 3 ? Shape{chunks, 2} : Shape{chunks, 2, 1, 3});
  }
  static std::vector<int64_t> first_chunk(const Layout& layout) {
    std::vector<int64_t> first;
    for (const Run& run : layout.runs) first.push_back(run.row * layout.length + run.begin);
    first.push_back(layout.rows * layout.length);
    return first;
  }
};

TEST(EnterState, IsTheScanOverWholeDocuments) {
  const States states;
  for_each_dealing([&](const Dealt& dealt) {
    const auto expected = reference::state_scan(states.decay, states.local, dealt.begins, states.d_entering);
    Tape tape;
    const Var decay = tape.input(States::chunks(dealt, states.decay)), local = tape.input(States::chunks(dealt, states.local));
    const Var h0 = enter_state({decay, local}, States::first_chunk(dealt.layout()), dealt.context(), 0);
    EXPECT_LT(relative_error(h0.data(), States::chunks(dealt, expected.entering)), kTolerance);
    const Tensors d = tape.backward({h0}, {States::chunks(dealt, states.d_entering)});
    EXPECT_LT(relative_error(d[0], States::chunks(dealt, expected.d_decay), 1e-3), kTolerance);
    EXPECT_LT(relative_error(d[1], States::chunks(dealt, expected.d_local)), kTolerance);
  });
}

TEST(EnterState, SendsBytesThatDoNotDependOnTheLength) {
  const Group group = world().split(0);
  const Dealt dealt(group, 1, {{0}, {0}});
  const auto bytes_for = [&](int64_t chunks) {  // of each run
    const int64_t before = group.bytes_sent();
    const SsdStates states{random_tensor({kRows * chunks, 2}, 1), random_tensor({kRows * chunks, 2, 3, 4}, 2)};
    enter_state(states, {0, chunks, 2 * chunks}, dealt.context(), 0).data().raw();
    return group.bytes_sent() - before;
  };
  EXPECT_GT(bytes_for(1), 0);
  EXPECT_EQ(bytes_for(1), bytes_for(7));
}

TEST(EnterState, IsSilentWhereNothingCanEnter) {
  const States states;
  const Dealt dealt(world(), 1, documents_at_cuts());
  const int64_t before = world().bytes_sent();
  Tape tape;
  const Var decay = tape.input(States::chunks(dealt, states.decay)), local = tape.input(States::chunks(dealt, states.local));
  const Var h0 = enter_state({decay, local}, States::first_chunk(dealt.layout()), dealt.context(), 0);
  tape.backward({h0}, {States::chunks(dealt, states.d_entering)});
  EXPECT_EQ(world().bytes_sent(), before);
}

// Mamba-1's scan over all tokens: 6 channels, 2 heads, a state of 3.
struct ScanOfTokens {
  static constexpr int64_t kChannels = 6, kHeads = 2, kState = 3;
  Tensor x = of({kChannels}, 1), dt = of({kChannels}, 2), z = of({kChannels}, 3), b = of({kHeads, kState}, 4), c = of({kHeads, kState}, 5);
  Tensor dy = of({kChannels}, 6);

  static Tensor of(std::initializer_list<int64_t> shape, uint64_t seed) { return random_tensor(Shape{kRows, kTokens}.then(shape), seed); }

  struct Result {
    Tensor y;
    Tensors gradients;   // of x, dt, z, b and c
    Tensors parameters;  // of a_log, dt_bias and d_skip, from this rank's tokens
  };
  Result run(const Dealt& dealt) const {
    Tape tape;
    const auto mine = [&](const Tensor& whole) { return tape.input(dealt.tokens(whole)); };
    const Vars parameters = {testing::parameter("a_log", random_tensor({kChannels, kState}, 7)),
                             testing::parameter("dt_bias", random_tensor({kChannels}, 8)),
                             testing::parameter("d_skip", random_tensor({kChannels}, 9))};
    const SelectiveScan scan = enter_scan({.x = mine(x),
                                           .dt = mine(dt),
                                           .z = mine(z),
                                           .b = mine(b),
                                           .c = mine(c),
                                           .a_log = parameters[0],
                                           .dt_bias = parameters[1],
                                           .d_skip = parameters[2],
                                           .h0 = {},
                                           .runs = dealt.layout().runs},
                                          dealt.context(), 0);
    Result result{scan.y.data(), tape.backward({scan.y}, {dealt.tokens(dy)}), {}};
    for (const Var& parameter : parameters) result.parameters.push_back(dealt.cp.group.all_reduce(parameter.leaf()->grad, "test"));
    return result;
  }
};

TEST(EnterScan, IsTheScanOverWholeDocuments) {
  const ScanOfTokens scan;
  for_each_dealing([&](const Dealt& dealt) {
    const ScanOfTokens::Result expected = scan.run(Dealt(Group(), 1, dealt.begins)), given = scan.run(dealt);
    EXPECT_LT(relative_error(given.y, dealt.tokens(expected.y)), kTolerance);
    for (size_t i = 0; i < expected.gradients.size(); ++i)
      EXPECT_LT(relative_error(given.gradients[i], dealt.tokens(expected.gradients[i])), kTolerance) << "gradient " << i;
    for (size_t i = 0; i < expected.parameters.size(); ++i)
      EXPECT_LT(relative_error(given.parameters[i], expected.parameters[i]), kTolerance) << "of parameter " << i;
  });
}

TEST(Recompute, NeedsNoTrafficInTheReplay) {
  const Group group = world().split(0);
  const Dealt dealt(group, 2, {{0, 5}, {0}});
  const States states;
  const Tensor x = dealt.tokens(random_tensor({kRows, kTokens, 3}, 1));
  const auto run = [&](Recompute policy) {
    Tape tape;
    const Vars inputs = {tape.input(States::chunks(dealt, states.decay)), tape.input(States::chunks(dealt, states.local)), tape.input(x)};
    const Vars out = Tape::segment(
        {}, inputs,
        [&](const Vars& in, Pass& pass) {
          const Context ctx = dealt.context(&pass);
          return Vars{enter_halo(in[2], 4, ctx, 0), enter_state({in[0], in[1]}, States::first_chunk(dealt.layout()), ctx, 0)};
        },
        policy);
    const Tensor h0 = out[1].data();
    const int64_t in_forward = group.bytes_sent();
    Tensors grads = tape.backward(out, {random_tensor(out[0].shape(), 7), States::chunks(dealt, states.d_entering)});
    grads.push_back(h0);
    return std::pair{grads, group.bytes_sent() - in_forward};
  };
  const auto [grads, bytes] = run(Recompute::kNone);
  const auto [again, bytes_again] = run(Recompute::kFull);
  EXPECT_EQ(bytes, bytes_again);
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_EQ(again[i].to_vector<double>(), grads[i].to_vector<double>());
}

}  // namespace
}  // namespace ropewalk
