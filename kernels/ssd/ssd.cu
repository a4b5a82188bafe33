#include "kernels/cuda/row_sums.cuh"
#include "kernels/ssd/products_backward.cuh"
#include "kernels/ssd/ssd.h"

namespace ropewalk {
namespace {

using namespace cuda;
using namespace cuda::ssd;

constexpr size_t kTileSize = kTile * kStride;

unsigned tiles_of(int64_t n) { return static_cast<unsigned>(ceil_div(n, kTile)); }
unsigned blocks_of(int64_t n) { return static_cast<unsigned>(n); }

// What the kernels of one launch have in common.
template <class T>
struct Launch {
  explicit Launch(const SsdOperands& operands)
      : in(operands), plan(in.chunks), steps(in), raw(in, plan), v(in.v), b(in.b), parts(head_parts(plan.blocks, groups, heads)) {}

  void find_steps(float* decay) const { run(cuda::ssd::find_steps<T>, grid_of_heads(raw), raw, steps.step, steps.cum, decay); }

  OfTokens<const float> step() const { return {steps.step.data, steps.step.tokens_a_row, steps.step.tokens}; }
  OfTokens<const Cum> cum() const { return {steps.cum.data, steps.cum.tokens_a_row, steps.cum.tokens}; }
  // A room of one value each.
  Tensor of_tokens() const { return Tensor::empty({heads, steps.step.tokens}, DType::kFloat32, Cuda{}); }
  OfTokens<float> of_tokens(const Tensor& room) const { return {room.data<float>(), steps.step.tokens_a_row, steps.step.tokens}; }
  OfTokens<const float> read(const Tensor& room) const {
    return {room ? room.data<float>() : nullptr, steps.step.tokens_a_row, steps.step.tokens};
  }
  // Rows of b or c in fp32, of each part of a group's heads.
  Tensor shared_parts() const { return Tensor::empty({parts.parts, in.b.dim(0), in.b.dim(1), groups, size}, DType::kFloat32, Cuda{}); }

  const SsdOperands& in;
  const int64_t heads = in.v.dim(2), groups = in.b.dim(2), width = in.v.dim(3), size = in.b.dim(3);
  const Plan plan;
  const Steps steps;
  const StepInputs<T> raw;
  const Heads<const T> v, b;
  const HeadParts parts;  // of blocks of tokens
};

// Calls body.operator()<kHalves>() with as many tiles side by side as hold `size` columns, or the most.
template <class Body>
void with_halves(int64_t size, const Body& body) {
  if (size <= kTile)
    body.template operator()<1>();
  else if (size <= 2 * kTile)
    body.template operator()<2>();
  else
    body.template operator()<kMostHalves>();
}

template <Weight kind, class T>
void launch_outer_products(const Launch<T>& all, const Heads<const T>& x, const Heads<const T>& z, float* to) {
  const OuterProducts<T> args{.chunks = all.plan.chunk_table(),
                              .heads = static_cast<int>(all.heads),
                              .heads_a_group = all.parts.heads_a_group,
                              .x = x,
                              .z = z,
                              .step = all.step(),
                              .cum = all.cum(),
                              .to = to,
                              .paired = all.size % 2 == 0};
  const auto start = [&]<int kHalves>() {
    run(outer_products<T, kind, kHalves>,
        {.blocks = dim3(blocks_of(all.plan.chunks * all.heads), tiles_of(all.width), blocks_of(ceil_div(all.size, kHalves * kTile))),
         .threads = dim3(kThreads),
         .shared = shared_bytes<T>(kTileSize) + shared_bytes<T>(kHalves * kTileSize) + shared_bytes<float>(kTile)},
        args);
  };
  all.size <= kTile ? start.template operator()<1>() : start.template operator()<2>();
}

// Parts of dz lie dz_part elements apart.
template <Weight kind, class T, class Out>
void launch_state_backward(const Launch<T>& all, const Heads<const T>& x, const Heads<const T>& z, const Tensor& states, const Heads<T>& dx,
                           const Tensor& dot, const Heads<Out>& dz, int64_t dz_part) {
  const StateBackward<T, Out> args{.blocks = all.plan.block_table(),
                                   .heads = static_cast<int>(all.heads),
                                   .parts = all.parts,
                                   .x = x,
                                   .z = z,
                                   .step = all.step(),
                                   .cum = all.cum(),
                                   .states = states.data<float>(),
                                   .states_packed = state_packs(states.data<float>(), all.size),
                                   .dx = dx,
                                   .dot = all.of_tokens(dot),
                                   .dz = dz,
                                   .dz_part = dz_part};
  with_halves(all.size, [&]<int kHalves>() {
    run(state_backward<T, Out, kind, kHalves>,
        {.blocks = dim3(blocks_of(all.plan.blocks), blocks_of(all.groups * all.parts.parts),
                        blocks_of(std::max<int64_t>(1, ceil_div(all.size, kHalves * kTile)))),
         .threads = dim3(kThreads),
         .shared = 2 * shared_bytes<T>(kTileSize) + shared_bytes<T>(z_tiles<kHalves>(static_cast<int>(all.size)) * kTileSize)},
        args);
  });
}

template <bool transposed, class T>
void launch_scores_backward(const Launch<T>& all, const Tensor& d_scores, const Heads<const T>& x, const Tensor& more, const Tensor& to) {
  run(scores_backward<T, transposed>,
      {.blocks = dim3(blocks_of(all.plan.blocks), blocks_of(all.groups), tiles_of(all.size)),
       .threads = dim3(kThreads),
       .shared = 2 * shared_bytes<T>(kTileSize)},
      ScoresBackward<T>{.blocks = all.plan.block_table(),
                        .d_scores = d_scores ? d_scores.data<float>() : nullptr,
                        .pairs = all.plan.pairs,
                        .d_score_parts = d_scores ? static_cast<int>(d_scores.dim(0)) : 0,
                        .x = x,
                        .more = more ? Heads<const float>(more.select(0, 0)) : Heads<const float>(),
                        .more_part = more ? more.stride(0) : 0,
                        .more_parts = more ? static_cast<int>(more.dim(0)) : 0,
                        .to = Heads<T>(to)});
}

// Scores c_i b_j, or their transposes.
template <class T>
Scores<T> scores_of(const Launch<T>& all, const Heads<const T>& c, bool transposed) {
  Scores<T> scores(all.plan, all.groups);
  run(find_scores<T>,
      {.blocks = dim3(blocks_of(all.plan.pairs), blocks_of(all.groups)),
       .threads = dim3(kThreads),
       .shared = 2 * shared_bytes<T>(kTileSize)},
      all.plan.pair_table(), transposed ? all.b : c, transposed ? c : all.b, transposed, scores.data);
  return scores;
}

template <bool kForward, class T, class Y>
void launch_weighted_sums(const Launch<T>& all, const WeightedSums<T, Y>& args) {
  run(weighted_sums<T, Y, kForward>,
      {.blocks = dim3(blocks_of(all.plan.blocks), blocks_of(all.groups * all.parts.parts), tiles_of(all.width)),
       .threads = dim3(kThreads),
       .shared = 2 * shared_bytes<T>(kTileSize) + shared_bytes<Factors>(1)},
      args);
}

template <class T>
void states_forward(const SsdStatesForward& args) {
  const Launch<T> all(args.in);
  all.find_steps(args.decay.data<float>());
  launch_outer_products<Weight::kUntilEnd>(all, all.v, all.b, args.local.data<float>());
}

template <class T>
void states_backward(const SsdStatesBackward& args) {
  const Launch<T> all(args.in);
  all.find_steps(nullptr);
  const Tensor d_weights = all.of_tokens();
  const Heads<T> dv(args.gradients.v);
  if (all.parts.parts == 1) {
    launch_state_backward<Weight::kUntilEnd>(all, all.v, all.b, args.d_local, dv, d_weights, Heads<T>(args.gradients.b), 0);
  } else {
    const Tensor db = all.shared_parts();
    launch_state_backward<Weight::kUntilEnd>(all, all.v, all.b, args.d_local, dv, d_weights, Heads<float>(db.select(0, 0)), db.stride(0));
    launch_scores_backward<true>(all, Tensor(), all.b, db, args.gradients.b);
  }
  const ParameterParts parts(all.plan.chunks, all.heads);
  run(backward_of_weights<T>, grid_of_heads(all.raw), all.raw, all.step(), all.cum(), all.read(d_weights), args.d_decay.data<float>(),
      Heads<T>(args.gradients.dt), parts.a_log, parts.dt_bias);
  parts.add_to(args.gradients);
}

template <class T, class Y>
WeightedSums<T, Y> weighted_sums_of(const Launch<T>& all, const Tensor& to) {
  return {.blocks = all.plan.block_table(),
          .heads = static_cast<int>(all.heads),
          .parts = all.parts,
          .x = all.v,
          .c = Heads<const T>(all.in.c),
          .to = Heads<Y>(to),
          .scores = nullptr,
          .skip = all.in.d_skip.template data<float>(),
          .step = all.step(),
          .cum = all.cum(),
          .states = nullptr,
          .states_packed = false,
          .inside = {}};
}

template <class T>
void with_states(WeightedSums<T, T>& args, const Tensor& h0) {
  args.states = h0.data<float>();
  args.states_packed = state_packs(args.states, h0.dim(3));
}

template <class T>
void outputs_forward(const SsdOutputsForward& args) {
  const Launch<T> all(args.in);
  all.find_steps(nullptr);
  const Heads<const T> c(args.in.c);
  const Scores<T> scores = scores_of(all, c, false);
  auto outputs = weighted_sums_of<T, T>(all, args.y);
  if (args.h0 && args.h0.storage()->pending()) {
    // In two passes, the first of which does not need h0 yet.
    const Tensor inside = Tensor::empty(args.y.shape(), DType::kFloat32, Cuda{});
    auto before = weighted_sums_of<T, float>(all, inside);
    before.scores = scores.data;
    launch_weighted_sums<true>(all, before);
    with_states(outputs, args.h0);  // waits for h0
    outputs.inside = Heads<const float>(inside);
    launch_weighted_sums<true>(all, outputs);
    return;
  }
  outputs.scores = scores.data;
  if (args.h0) with_states(outputs, args.h0);
  launch_weighted_sums<true>(all, outputs);
}

template <class T>
void outputs_backward(const SsdOutputsBackward& args) {
  const Launch<T> all(args.in);
  all.find_steps(nullptr);
  const Heads<const T> c(args.in.c), dy(args.dy);
  const SsdGradients& gradients = args.gradients;

  auto dv = weighted_sums_of<T, T>(all, gradients.v);
  dv.x = dy;
  const Scores<T> transposed = scores_of(all, c, true);
  dv.scores = transposed.data;
  launch_weighted_sums<false>(all, dv);

  const Scores<T> scores = scores_of(all, c, false);
  const HeadParts parts = head_parts(all.plan.pairs, all.groups, all.heads);
  const Shape of_scores{int64_t{parts.parts}, all.plan.pairs * all.groups, int64_t{kTile * kTile}};
  const Shape of_sums{all.plan.pairs, all.heads, static_cast<int64_t>(sizeof(PairSums) / sizeof(float))};
  const Tensor d_scores = Tensor::empty(of_scores, DType::kFloat32, Cuda{}), pair_sums = Tensor::empty(of_sums, DType::kFloat32, Cuda{});
  const Tensor d_skips = all.of_tokens();
  auto* const sums = reinterpret_cast<PairSums*>(pair_sums.data<float>());
  run(pairs_backward<T>,
      {.blocks = dim3(blocks_of(all.plan.pairs), blocks_of(all.groups * parts.parts)),
       .threads = dim3(kThreads),
       .shared = 2 * shared_bytes<T>(kTileSize) + shared_bytes<Factors>(1) + shared_bytes<float>(kThreads / kWarp * kTile) +
                 shared_bytes<float>(kTile * (kTile + 1))},
      PairsBackward<T>{.pairs = all.plan.pair_table(),
                       .heads = static_cast<int>(all.heads),
                       .parts = parts,
                       .v = all.v,
                       .dy = dy,
                       .step = all.step(),
                       .cum = all.cum(),
                       .scores = scores.data,
                       .d_scores = d_scores.data<float>(),
                       .sums = sums,
                       .d_skip = all.of_tokens(d_skips)});

  Tensor d_decays, dc;
  if (args.h0) {
    d_decays = all.of_tokens();
    dc = all.shared_parts();
    launch_state_backward<Weight::kSinceStart>(all, dy, c, args.h0, Heads<T>(), d_decays, Heads<float>(dc.select(0, 0)), dc.stride(0));
  }
  if (args.d_h0) launch_outer_products<Weight::kSinceStart>(all, dy, c, args.d_h0.data<float>());
  launch_scores_backward<false>(all, d_scores, all.b, dc, gradients.c);
  launch_scores_backward<true>(all, d_scores, c, Tensor(), gradients.b);

  const ParameterParts parameters(all.plan.chunks, all.heads);
  run(backward_of_pairs<T>, grid_of_heads(all.raw), all.raw, all.step(), all.cum(), sums, all.read(d_decays), all.read(d_skips),
      Heads<T>(gradients.dt), parameters.a_log, parameters.dt_bias, parameters.d_skip);
  parameters.add_to(gradients);
}

}  // namespace

void launch(Cuda, const SsdStatesForward& args) {
  dispatch_narrow(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { states_forward<T>(args); });
}

void launch(Cuda, const SsdStatesBackward& args) {
  dispatch_narrow(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { states_backward<T>(args); });
}

void launch(Cuda, const SsdOutputsForward& args) {
  dispatch_narrow(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { outputs_forward<T>(args); });
}

void launch(Cuda, const SsdOutputsBackward& args) {
  dispatch_narrow(args.in.v.dtype(), [&]<class T>(std::type_identity<T>) { outputs_backward<T>(args); });
}

}  // namespace ropewalk
