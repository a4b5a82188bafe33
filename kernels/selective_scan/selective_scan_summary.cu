#include <algorithm>

#include "kernels/selective_scan/selective_scan.cuh"

namespace ropewalk {
namespace s6_gpu {
namespace {

constexpr int64_t kMostShares = 128, kProcessors = 132;  // multiprocessors of an H100

// Of the shares that n chunks may be cut into, the number that takes least time: rounds of blocks, each as long as a share.
int64_t shares_of(int64_t chunks, int64_t tiles, int64_t blocks_at_once, double price) {
  int64_t best = std::min<int64_t>(chunks, 1);
  double least = 0;
  for (int64_t shares = 1; shares <= std::min(chunks, kMostShares); ++shares) {
    const double rounds = static_cast<double>(ceil_div(tiles * shares, blocks_at_once) * ceil_div(chunks, shares));
    const double time = rounds * (shares == 1 ? 1 : 1 + price);
    if (shares > 1 && time >= least) continue;
    best = shares;
    least = time;
  }
  return best;
}

}  // namespace

Plan::Plan(const SelectiveScanOperands& in, int blocks, double price)
    : tiles_a_head(ceil_div(in.x.dim(2) / in.b.dim(2), kChannels)), tiles(tiles_a_head * in.b.dim(2)) {
  int64_t border = 0;
  for (int64_t r = 0; r < std::ssize(in.runs); ++r) {
    const Run& run = in.runs[r];
    for (int64_t done = 0; done == 0 || done < run.length; done += kTokens) {
      const int64_t begin = run.begin + done, length = std::min<int64_t>(kTokens, run.length - done);
      chunks.push_back({.row = run.row,
                        .begin = begin,
                        .token = run.row * in.x.dim(1) + begin,
                        .run = r,
                        .enters = run.enters,
                        .border = border,
                        .length = static_cast<int32_t>(length),
                        .first = done == 0,
                        .last = done + length == run.length});
      border += length > 0;
    }
  }
  const int64_t count = std::ssize(chunks), cuts = shares_of(count, tiles, kProcessors * blocks, price);
  for (int64_t s = 0; s < cuts; ++s) shares.push_back({s * count / cuts, (s + 1) * count / cuts});
}

namespace {

// ---- what chunks do to any state, on the way forward or back

constexpr int kHeld = 4;

enum class Way { kForward, kBackward };

// Where a way comes into a run, and where it leaves it.
template <Way way>
__host__ __device__ bool opens(const Chunk& chunk) {
  return way == Way::kForward ? chunk.first : chunk.last;
}
template <Way way>
__host__ __device__ bool closes(const Chunk& chunk) {
  return way == Way::kForward ? chunk.last : chunk.first;
}

// state -> decay state + left, of a run or of the rest of a share: [.., C, N]
struct Effects {
  float *decay, *left;
};

template <class T>
struct AbsorbLaunch {
  Operands<T> in;
  Rows<T> dy;  // on the way back
  const Chunk* chunks;
  const Range* shares;
  Effects of_runs, of_shares;  // of_runs null: not wanted; its decay alone: likewise. of_shares: where the way goes on behind the share
};

// Forward h -> decay (h) + value vector with step x and b, back g -> decay (g + value vector) with dy and c.
template <Way way>
__device__ void absorb_chunk(int length, const Lane<kHeld>& lane, const float* step, const float* value, const float* vector,
                             const LaneStates<kHeld>& rate, LaneStates<kHeld>& state, float (&elapsed)[kHeld]) {
  for (int i = 0; i < length; ++i) {
    const int t = way == Way::kForward ? i : length - 1 - i;
    const auto steps = load_pack<kHeld>(step + lane.at(t)), values = load_pack<kHeld>(value + lane.at(t));
    const auto vectors = load_pack<kLaneStates>(vector + lane.vector_at(t));
    unrolled<kHeld>([&](int k) { elapsed[k] += steps.v[k]; });
    state.each([&](int k, int m) {
      float& h = state.v[k][m];
      const float decay = decay_of(steps.v[k] * rate.v[k][m]), taken = values.v[k] * vectors.v[m];
      h = way == Way::kForward ? decay * h + taken : decay * (h + taken);
    });
  }
}

template <Way way, int pack, class T>
__global__ void __launch_bounds__(kThreads<kHeld>, 3) absorb(AbsorbLaunch<T> launch) {
  SharedMemory shared;
  float *const step = shared.take<float>(kTileSize), *const value = shared.take<float>(kTileSize),
               *const vector = shared.take<float>(kVectors);
  const Operands<T>& in = launch.in;
  const Tile tile(in);
  const Lane<kHeld> lane(in, tile);
  const auto rate = lane.template rates<pack>(in.a_log);
  LaneStates<kHeld> state{};
  float elapsed[kHeld] = {};
  const auto leave = [&](const Effects& effects, int64_t at) {
    if (effects.left) lane.template store<pack>(state, effects.left + at * in.state_size());
    if (!effects.decay) return;
    LaneStates<kHeld> decay;
    decay.each([&](int k, int m) { decay.v[k][m] = decay_of(elapsed[k] * rate.v[k][m]); });
    lane.template store<pack>(decay, effects.decay + at * in.state_size());
  };
  const Range share = launch.shares[blockIdx.y];
  bool goes_on = false;
  for (int64_t i = 0; i < share.end - share.begin; ++i) {
    const Chunk chunk = launch.chunks[way == Way::kForward ? share.begin + i : share.end - 1 - i];
    if constexpr (way == Way::kForward) {
      load_inputs<kHeld, pack>(in, chunk, tile, step, value);
    } else {
      load_steps<kHeld, pack>(in, chunk, tile, step);
      load_gradients<kHeld, pack>(in, launch.dy, chunk, tile, value);
    }
    load_vectors<kHeld, pack>(way == Way::kForward ? in.b : in.c, chunk, tile.head, in, vector);
    if (opens<way>(chunk)) {
      state = {};
      unrolled<kHeld>([&](int k) { elapsed[k] = 0; });
    }
    __syncthreads();
    absorb_chunk<way>(chunk.length, lane, step, value, vector, rate, state, elapsed);
    goes_on = !closes<way>(chunk);
    if (!goes_on) leave(launch.of_runs, chunk.run);
    __syncthreads();
  }
  if (goes_on) leave(launch.of_shares, blockIdx.y);
}

// ---- from share to share

// A share on the way, in the way's order.
struct Link {
  int64_t share, run;  // run: the one that it begins with
  int64_t start;       // the state that enters the run that goes on behind it; -1: zeros
  bool continues;      // it begins inside a run
  bool goes_on;        // it ends inside a run
  bool through;        // the same run, all the way
};

template <Way way>
std::vector<Link> links_of(const Plan& plan) {
  std::vector<Link> links;
  for (int64_t s = 0; s < std::ssize(plan.shares); ++s) {
    const auto& [begin, end] = plan.shares[static_cast<size_t>(s)];
    const Chunk &first = plan.chunks[way == Way::kForward ? begin : end - 1], &last = plan.chunks[way == Way::kForward ? end - 1 : begin];
    const bool continues = !opens<way>(first), goes_on = !closes<way>(last);
    links.push_back({.share = s,
                     .run = first.run,
                     .start = way == Way::kForward ? last.enters : last.run,
                     .continues = continues,
                     .goes_on = goes_on,
                     .through = continues && goes_on && first.run == last.run});
  }
  if (way == Way::kBackward) std::reverse(links.begin(), links.end());
  return links;
}

// left[share] <- the state that enters the share. start [.., n] may be null: zeros.
__global__ void enter_shares(int64_t n, const Link* links, int64_t count, const float* start, Effects of_shares) {
  for_each_item(n, [&](int64_t i) {
    float carried = 0;
    for (int64_t j = 0; j < count; ++j) {
      const Link link = links[j];
      const int64_t at = link.share * n + i;
      const float entering = carried;
      if (link.goes_on) {
        if (!link.through) carried = start && link.start >= 0 ? start[link.start * n + i] : 0;
        carried = of_shares.decay[at] * carried + of_shares.left[at];
      }
      if (link.continues) of_shares.left[at] = entering;
    }
  });
}

// Of the runs that were cut, what their last shares do to a state behind what the others do.
__global__ void join_runs(int64_t n, const Link* links, int64_t count, Effects of_runs, Effects of_shares) {
  for_each_item(n, [&](int64_t i) {
    float decay = 1, left = 0;  // of the run so far
    for (int64_t j = 0; j < count; ++j) {
      const Link link = links[j];
      if (link.continues && !link.through) {
        const int64_t at = link.run * n + i;
        of_runs.left[at] += of_runs.decay[at] * left;
        of_runs.decay[at] *= decay;
      }
      if (!link.goes_on) continue;
      const int64_t at = link.share * n + i;
      left = of_shares.left[at] + (link.through ? of_shares.decay[at] * left : 0);
      decay = of_shares.decay[at] * (link.through ? decay : 1);
    }
  });
}

// ---- launches

template <Way way, class T>
void absorb(const SelectiveScanOperands& operands, const Plan& plan, const std::vector<Range>& parts, const Tensor& dy,
            const Effects& of_runs, const Effects& of_shares) {
  const Operands<T> in(operands, plan);
  const auto chunks = upload(plan.chunks);
  const auto shares = upload(parts);
  AbsorbLaunch<T> launch{.in = in,
                         .dy = dy ? rows_of<T>(dy) : Rows<T>{},
                         .chunks = chunks.data,
                         .shares = shares.data,
                         .of_runs = of_runs,
                         .of_shares = of_shares};
  const Grid grid{.blocks = plan.blocks(),
                  .threads = dim3(kThreads<kHeld>),
                  .shared = 2 * shared_bytes<float>(kTileSize) + shared_bytes<float>(kVectors)};
  constexpr int kPack = kPackWidth<T>;
  const bool fits = in.packs(kPack) && (!dy || packs(launch.dy.data, launch.dy.stride, kPack)) && packs(of_runs.left, 0, kLaneStates) &&
                    packs(of_runs.decay, 0, kLaneStates);
  with_packs<T>(fits, [&]<int pack>() {
    for_each_launch(in.states, [&](int first, bool) {
      launch.in.first_state = first;
      run(absorb<way, pack, T>, grid, launch);
    });
  });
}

template <Way way>
void absorb(const SelectiveScanOperands& in, const Plan& plan, const std::vector<Range>& parts, const Tensor& dy, const Effects& of_runs,
            const Effects& of_shares) {
  dispatch_narrow(in.x.dtype(), [&]<class T>(std::type_identity<T>) { absorb<way, T>(in, plan, parts, dy, of_runs, of_shares); });
}

// Of each share the part behind which the way goes on inside a run: from where it came into the run. Empty where it does not.
template <Way way>
std::vector<Range> open_ends(const Plan& plan) {
  std::vector<Range> parts;
  for (Range part : plan.shares) {
    const auto opens_at = [&](int64_t i) { return opens<way>(plan.chunks[static_cast<size_t>(i)]); };
    if (closes<way>(plan.chunks[way == Way::kForward ? part.end - 1 : part.begin])) {
      part.end = part.begin;
    } else if (way == Way::kForward) {
      for (int64_t i = part.begin; i < part.end; ++i)
        if (opens_at(i)) part.begin = i;
    } else {
      for (int64_t i = part.end; i-- > part.begin;)
        if (opens_at(i)) part.end = i + 1;
    }
    parts.push_back(part);
  }
  return parts;
}

struct EffectTensors {
  explicit EffectTensors(const Shape& shape) : decay(Tensor::empty(shape, DType::kFloat32, Cuda{})), left(empty_like(decay)) {}
  Effects effects() const { return {.decay = decay.data<float>(), .left = left.data<float>()}; }

  Tensor decay, left;  // [shares, C, N]
};

Shape shape_of_states(const SelectiveScanOperands& in, const Plan& plan) { return {std::ssize(plan.shares), in.x.dim(2), in.b.dim(3)}; }

template <Way way>
Tensor enter(const SelectiveScanOperands& in, const Plan& plan, const Tensor& dy, const Tensor& start) {
  if (plan.shares.size() <= 1) return Tensor();
  const EffectTensors of_shares(shape_of_states(in, plan));
  absorb<way>(in, plan, open_ends<way>(plan), dy, {}, of_shares.effects());
  const auto links = upload(links_of<way>(plan));
  const int64_t n = in.a_log.numel();
  run(enter_shares, grid_for(n), n, links.data, links.count, start ? start.data<float>() : nullptr, of_shares.effects());
  return of_shares.left;
}

template <Way way>
void effects_of_runs(const SelectiveScanOperands& in, const Tensor& dy, const Effects& of_runs) {
  const Plan plan(in, 2, 0);
  const EffectTensors of_shares(shape_of_states(in, plan));
  absorb<way>(in, plan, plan.shares, dy, of_runs, of_shares.effects());
  if (plan.shares.size() <= 1) return;
  const auto links = upload(links_of<way>(plan));
  const int64_t n = in.a_log.numel();
  run(join_runs, grid_for(n), n, links.data, links.count, of_runs, of_shares.effects());
}

}  // namespace

Tensor states_entering_shares(const SelectiveScanOperands& in, const Plan& plan) { return enter<Way::kForward>(in, plan, {}, in.h0); }
Tensor gradients_behind_shares(const SelectiveScanOperands& in, const Plan& plan, const Tensor& dy, const Tensor& d_leaving) {
  return enter<Way::kBackward>(in, plan, dy, d_leaving);
}

}  // namespace s6_gpu

void launch(Cuda, const SelectiveScanSummary& args) {
  s6_gpu::effects_of_runs<s6_gpu::Way::kForward>(args.in, {}, {.decay = args.decay.data<float>(), .left = args.left.data<float>()});
}

void launch(Cuda, const SelectiveScanAdjoint& args) {
  const Tensor decay = empty_like(args.d_entering);
  s6_gpu::effects_of_runs<s6_gpu::Way::kBackward>(args.in, args.dy, {.decay = decay.data<float>(), .left = args.d_entering.data<float>()});
}

}  // namespace ropewalk
