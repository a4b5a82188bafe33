#include "kernels/cuda/row_sums.cuh"
#include "kernels/selective_scan/selective_scan.cuh"

namespace ropewalk {
namespace {

using namespace s6_gpu;

Tensor room_for(const Shape& floats) { return Tensor::empty(floats, DType::kFloat32, Cuda{}); }
float* floats_of(const Tensor& x) { return x ? x.data<float>() : nullptr; }

// ---- forward

constexpr int kHeld = 4, kPiece = 4;  // channels of a lane; tokens whose outputs are summed over the states together

template <class T>
struct ForwardLaunch {
  Operands<T> in;
  const Chunk* chunks;
  const Range* shares;
  const float* entering;  // [shares, C, N]: the state before each; null: each begins with a run
  Rows<T> y;
  float *leaving, *borders;  // borders: null: not wanted
  float* sums;               // [tokens, C]: of the launches before and after this one; null: there are none
  bool last;
};

// The chunk through this lane's states; the sums over states take the place of the inputs.
template <int held>
__device__ void scan_chunk(int length, const Lane<held>& lane, const float* step, float* input, const float* b, const float* c,
                           const LaneStates<held>& rate, LaneStates<held>& state) {
  static_assert(held == kLaneStates && kPiece == kStateLanes);
  for (int first = 0; first < length; first += kPiece) {
    float y[kPiece * held] = {};
    unrolled<kPiece>([&](int i) {
      const int t = first + i;
      const auto steps = load_pack<held>(step + lane.at(t)), inputs = load_pack<held>(input + lane.at(t));
      const auto bs = load_pack<kLaneStates>(b + lane.vector_at(t)), cs = load_pack<kLaneStates>(c + lane.vector_at(t));
      state.each([&](int k, int m) {
        float& h = state.v[k][m];
        h = decay_of(steps.v[k] * rate.v[k][m]) * h + inputs.v[k] * bs.v[m];
        y[i * held + k] += h * cs.v[m];
      });
    });
    fold_states<kPiece * held>(y);  // of token first + group
    store_pack(input + lane.at(first + lane.group), Pack<float, held>{y[0], y[1], y[2], y[3]});
  }
}

// y = (sums + skip x) silu(z)
template <int pack, class T>
__device__ void store_outputs(const ForwardLaunch<T>& launch, const Chunk& chunk, const Tile& tile, const float* scanned) {
  struct Loaded {
    Pack<T, pack> x, z;
  };
  const Operands<T>& in = launch.in;
  for_each_pack<kHeld, pack>(
      [&](int t, int c) -> Loaded {
        return {load_or_zero<pack>(in.x, chunk, tile, t, c), in.z.data ? load_or_zero<pack>(in.z, chunk, tile, t, c) : Pack<T, pack>{}};
      },
      [&](int t, int c, const Loaded& loaded) {
        if (t >= chunk.length || c >= tile.width) return;
        const int64_t channel = tile.channel + c;
        float* const sums = launch.sums ? launch.sums + (chunk.token + t) * in.channels + channel : nullptr;
        Pack<T, pack> y;
        unrolled<pack>([&](int k) {
          float sum = scanned[t * kChannels + c + k];
          if (in.first_state > 0) sum += sums[k];
          if (!launch.last) sums[k] = sum;
          const float open = sum + in.d_skip[channel + k] * float(loaded.x.v[k]);
          y.v[k] = static_cast<T>(in.z.data ? open * silu(float(loaded.z.v[k])).value : open);
        });
        if (launch.last) store_pack(launch.y[chunk.token + t] + channel, y);
      });
}

template <int pack, class T>
__global__ void __launch_bounds__(kThreads<kHeld>, 3) forward(ForwardLaunch<T> launch) {
  SharedMemory shared;
  float *const step = shared.take<float>(kTileSize), *const input = shared.take<float>(kTileSize);
  float *const b = shared.take<float>(kVectors), *const c = shared.take<float>(kVectors);
  const Operands<T>& in = launch.in;
  const Tile tile(in);
  const Lane<kHeld> lane(in, tile);
  const auto rate = lane.template rates<pack>(in.a_log);
  const Range share = launch.shares[blockIdx.y];
  auto state = lane.template load<pack>(launch.entering ? launch.entering + blockIdx.y * in.state_size() : nullptr);
  for (int64_t i = share.begin; i < share.end; ++i) {
    const Chunk chunk = launch.chunks[i];
    load_inputs<kHeld, pack>(in, chunk, tile, step, input);
    load_vectors<kHeld, pack>(in.b, chunk, tile.head, in, b);
    load_vectors<kHeld, pack>(in.c, chunk, tile.head, in, c);
    if (chunk.first) state = lane.template load<pack>(in.entering(chunk));
    if (launch.borders && chunk.length > 0) lane.template store<pack>(state, launch.borders + chunk.border * in.state_size());
    __syncthreads();
    scan_chunk(chunk.length, lane, step, input, b, c, rate, state);
    if (chunk.last) lane.template store<pack>(state, launch.leaving + chunk.run * in.state_size());
    __syncthreads();
    store_outputs<pack>(launch, chunk, tile, input);  // a thread reads here what it writes next
  }
}

template <class T>
void forward(const SelectiveScanForward& args) {
  const Plan plan(args.in, 2, 0.9);
  const Tensor entering = states_entering_shares(args.in, plan);
  const auto chunks = upload(plan.chunks);
  const auto shares = upload(plan.shares);
  const Operands<T> in(args.in, plan);
  const int64_t tokens = args.in.x.dim(0) * args.in.x.dim(1);
  const Tensor sums = in.states > kStates ? room_for(Shape{tokens, in.channels}) : Tensor();
  ForwardLaunch<T> launch{.in = in,
                          .chunks = chunks.data,
                          .shares = shares.data,
                          .entering = floats_of(entering),
                          .y = rows_of<T>(args.y),
                          .leaving = args.leaving.data<float>(),
                          .borders = floats_of(args.borders),
                          .sums = floats_of(sums),
                          .last = false};
  const Grid grid{.blocks = plan.blocks(),
                  .threads = dim3(kThreads<kHeld>),
                  .shared = 2 * shared_bytes<float>(kTileSize) + 2 * shared_bytes<float>(kVectors)};
  with_packs<T>(in.packs(kPackWidth<T>) && packs(launch.y.data, launch.y.stride, kPackWidth<T>), [&]<int pack>() {
    for_each_launch(in.states, [&](int first, bool last) {
      launch.in.first_state = first;
      launch.last = last;
      run(forward<pack, T>, grid, launch);
    });
  });
}

// ---- backward

constexpr int kHeldBack = 2, kPieceBack = 8;  // tokens whose states are kept in registers
constexpr int kThreadsBack = kThreads<kHeldBack>, kWarpsBack = kThreadsBack / kWarp, kPieces = kTokens / kPieceBack;
constexpr int kTokenSums = 2 * kStates;  // a token's, of b and c
constexpr int kPart = kPieceBack * kTokenSums;

template <class T>
struct BackwardLaunch {
  Operands<T> in;
  const Chunk* chunks;
  const Range* shares;
  const float* behind;  // [shares, C, N]: the gradient of the state behind each; null: each ends with a run
  Rows<T> dy;
  const float *d_leaving, *borders;  // d_leaving: null: zeros
  Rows<T> dx, d_dt, dz;
  float *d_h0, *d_a_log, *d_bias, *d_skip;  // null: not wanted; [E, C, N], and a part a share of [C, N], [C], [C]
  float* token_parts;                       // [tiles, tokens, kTokenSums]
  int64_t tokens;
  float* sums;  // [3, tokens, C]: of the launches before and after this one; null: there are none
  bool last;
};

// What the threads of a block share.
struct BackwardRoom {
  __device__ explicit BackwardRoom(SharedMemory& shared)
      : step(shared.take<float>(kTileSize)),
        input(shared.take<float>(kTileSize)),
        dy(shared.take<float>(kTileSize)),
        d_step(shared.take<float>(kTileSize)),
        b(shared.take<float>(kVectors)),
        c(shared.take<float>(kVectors)),
        parts(shared.take<float>(2 * kWarpsBack * kPart)),
        saved(shared.take<float>(kPieces * kHeldBack * kLaneStates * kThreadsBack)) {}
  static size_t bytes() {
    return 4 * shared_bytes<float>(kTileSize) + 2 * shared_bytes<float>(kVectors) + shared_bytes<float>(2 * kWarpsBack * kPart) +
           shared_bytes<float>(kPieces * kHeldBack * kLaneStates * kThreadsBack);
  }

  // The states before piece p, each lane's own.
  __device__ void save(int p, const LaneStates<kHeldBack>& state) const {
    unrolled<kHeldBack>([&](int k) {
      Pack<float, kLaneStates> four;
      unrolled<kLaneStates>([&](int m) { four.v[m] = state.v[k][m]; });
      store_pack(place(p, k), four);
    });
  }
  __device__ LaneStates<kHeldBack> restore(int p) const {
    LaneStates<kHeldBack> state;
    unrolled<kHeldBack>([&](int k) {
      const auto four = load_pack<kLaneStates>(place(p, k));
      unrolled<kLaneStates>([&](int m) { state.v[k][m] = four.v[m]; });
    });
    return state;
  }

  float *step, *input, *dy,
      *d_step;   // [kTokens, kChannels]; in the end `input` and `dy` are the gradient of the input, and the scan's output
  float *b, *c;  // [kTokens, kStates]
  float* parts;  // [2, warps, kPieceBack, kTokenSums]: of one piece, and of the next

 private:
  __device__ float* place(int p, int k) const {
    return saved + ((p * kHeldBack + k) * kThreadsBack + static_cast<int>(threadIdx.x)) * kLaneStates;
  }
  float* saved;
};

// This lane's states through the tokens of a piece.
template <int held>
__device__ void advance(const BackwardRoom& room, int first, const Lane<held>& lane, const LaneStates<held>& rate,
                        LaneStates<held>& state) {
  unrolled<kPieceBack>([&](int i) {
    const auto step = load_pack<held>(room.step + lane.at(first + i)), input = load_pack<held>(room.input + lane.at(first + i));
    const auto b = load_pack<kLaneStates>(room.b + lane.vector_at(first + i));
    state.each([&](int k, int m) { state.v[k][m] = decay_of(step.v[k] * rate.v[k][m]) * state.v[k][m] + input.v[k] * b.v[m]; });
  });
}

// The way back through the tokens of a piece, from the states before it: d_state, the gradient of the states behind it, becomes that of
// those before. Leaves what the warp adds to the gradients of b and c in part [kPieceBack, kTokenSums].
template <int held>
__device__ void return_through(const BackwardRoom& room, int first, const Lane<held>& lane, const LaneStates<held>& rate,
                               LaneStates<held> state, LaneStates<held>& d_state, LaneStates<held>& d_rate, float* part) {
  static_assert(held == 2 && 2 * kLaneStates == kChannelLanes && kPieceBack == 2 * kStateLanes);
  LaneStates<held> before[kPieceBack], decay[kPieceBack];
  float y[kPieceBack * held] = {};
  unrolled<kPieceBack>([&](int i) {
    const auto step = load_pack<held>(room.step + lane.at(first + i)), input = load_pack<held>(room.input + lane.at(first + i));
    const auto b = load_pack<kLaneStates>(room.b + lane.vector_at(first + i)),
               c = load_pack<kLaneStates>(room.c + lane.vector_at(first + i));
    state.each([&](int k, int m) {
      float& h = state.v[k][m];
      before[i].v[k][m] = h;
      decay[i].v[k][m] = decay_of(step.v[k] * rate.v[k][m]);
      h = decay[i].v[k][m] * h + input.v[k] * b.v[m];
      y[i * held + k] += h * c.v[m];
    });
  });
  fold_states<kPieceBack * held>(y);  // of tokens 2 group and 2 group + 1
  unrolled<kPieceBack / 2>([&](int pair) {
    constexpr int kOfPair = 2 * held;
    float d[2 * kOfPair] = {};  // of steps in units of log2(e), and of inputs: [2 tokens, held]
    unrolled<2>([&](int earlier) {
      const int of_pair = 1 - earlier, i = kPieceBack - 2 - 2 * pair + of_pair;
      const auto step = load_pack<held>(room.step + lane.at(first + i)), input = load_pack<held>(room.input + lane.at(first + i));
      const auto dy = load_pack<held>(room.dy + lane.at(first + i));
      const auto b = load_pack<kLaneStates>(room.b + lane.vector_at(first + i)),
                 c = load_pack<kLaneStates>(room.c + lane.vector_at(first + i));
      float d_vectors[2 * kLaneStates] = {};  // of b and c
      state.each([&](int k, int m) {
        float& g = d_state.v[k][m];
        const float after = i + 1 < kPieceBack ? before[(i + 1) % kPieceBack].v[k][m] : state.v[k][m];
        const float dh = g + dy.v[k] * c.v[m];
        d_vectors[m] += dh * input.v[k];
        d_vectors[kLaneStates + m] += dy.v[k] * after;
        d[kOfPair + of_pair * held + k] += dh * b.v[m];
        g = decay[i].v[k][m] * dh;
        const float through = g * before[i].v[k][m];
        d[of_pair * held + k] += through * rate.v[k][m];
        d_rate.v[k][m] += through * step.v[k];
      });
      fold_channels(d_vectors);
      const int value = static_cast<int>(threadIdx.x) % kWarp / kStateLanes;
      part[i * kTokenSums + value / kLaneStates * kStates + lane.group * kLaneStates + value % kLaneStates] = d_vectors[0];
    });
    fold_states<2 * kOfPair>(d);  // groups 0 and 1 have those of the steps, of a token each, groups 2 and 3 those of the inputs
    float* const to = lane.group < 2 ? room.d_step : room.input;
    store_pack(to + lane.at(first + kPieceBack - 2 - 2 * pair + lane.group % 2), Pack<float, held>{d[0], d[1]});
  });
  __syncwarp();  // all have read dy
  unrolled<2>([&](int i) { store_pack(room.dy + lane.at(first + 2 * lane.group + i), Pack<float, held>{y[2 * i], y[2 * i + 1]}); });
}

// Sums over the block's warps in order: what the tile adds to the gradients of b and c.
__device__ inline void add_warps(const float* parts, int tokens, float* to) {
  static_assert(kPart == kThreadsBack);
  const int i = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int warp = 0; warp < kWarpsBack; ++warp) sum += parts[warp * kPart + i];
  if (i / kTokenSums < tokens) to[i] = sum;
}

// From the gradients of steps and inputs to those of the operands. What remains to be summed over tokens takes their place: addends of the
// gradients of bias and skip.
template <int pack, class T>
__device__ void store_gradients(const BackwardLaunch<T>& launch, const Chunk& chunk, const Tile& tile, const BackwardRoom& room) {
  struct Loaded {
    Pack<T, pack> x, z, dy;
  };
  const Operands<T>& in = launch.in;
  for_each_pack<kHeldBack, pack>(
      [&](int t, int c) -> Loaded {
        return {load_or_zero<pack>(in.x, chunk, tile, t, c), in.z.data ? load_or_zero<pack>(in.z, chunk, tile, t, c) : Pack<T, pack>{},
                load_or_zero<pack>(launch.dy, chunk, tile, t, c)};
      },
      [&](int t, int c, const Loaded& loaded) {
        if (t >= chunk.length || c >= tile.width) return;
        const int64_t token = chunk.token + t, channel = tile.channel + c;
        float* const sums = launch.sums ? launch.sums + token * in.channels + channel : nullptr;
        const int64_t apart = launch.tokens * in.channels;
        Pack<T, pack> dx, d_dt, dz;
        unrolled<pack>([&](int k) {
          const int at = t * kChannels + c + k;
          float d_step = room.d_step[at], d_input = room.input[at], y = room.dy[at];
          if (in.first_state > 0) d_step += sums[k], d_input += sums[apart + k], y += sums[2 * apart + k];
          if (!launch.last) sums[k] = d_step, sums[apart + k] = d_input, sums[2 * apart + k] = y;
          const float x = loaded.x.v[k], dy = loaded.dy.v[k], step = room.step[at], skip = in.d_skip[channel + k];
          const Silu gate = in.z.data ? silu(float(loaded.z.v[k])) : Silu{.value = 1, .slope = 0};
          const float d_open = dy * gate.value, d_raw = (kLn2 * d_step + d_input * x) * -expm1f(-step);  // sigmoid(raw) = 1 - e^-step
          dx.v[k] = static_cast<T>(d_input * step + d_open * skip);
          d_dt.v[k] = static_cast<T>(d_raw);
          dz.v[k] = static_cast<T>(dy * (y + skip * x) * gate.slope);
          room.d_step[at] = d_raw;
          room.input[at] = d_open * x;
        });
        if (!launch.last) return;
        store_pack(launch.dx[token] + channel, dx);
        store_pack(launch.d_dt[token] + channel, d_dt);
        if (in.z.data) store_pack(launch.dz[token] + channel, dz);
      });
}

template <int pack, class T>
__global__ void __launch_bounds__(kThreadsBack) backward(BackwardLaunch<T> launch) {
  SharedMemory shared;
  const BackwardRoom room(shared);
  const Operands<T>& in = launch.in;
  const Tile tile(in);
  const Lane<kHeldBack> lane(in, tile);
  const Range share = launch.shares[blockIdx.y];
  const auto rate = lane.template rates<pack>(in.a_log);
  auto d_state = lane.template load<pack>(launch.behind ? launch.behind + blockIdx.y * in.state_size() : nullptr);
  LaneStates<kHeldBack> d_rate{};
  // This thread sums a channel's gradient of the bias, or of the skip.
  const int channel = static_cast<int>(threadIdx.x) % kChannels;
  const bool of_bias = threadIdx.x < kChannels;
  float d_channel = 0;
  for (int64_t i = share.end; i-- > share.begin;) {
    const Chunk chunk = launch.chunks[i];
    load_inputs<kHeldBack, pack>(in, chunk, tile, room.step, room.input);
    load_gradients<kHeldBack, pack>(in, launch.dy, chunk, tile, room.dy);
    load_vectors<kHeldBack, pack>(in.b, chunk, tile.head, in, room.b);
    load_vectors<kHeldBack, pack>(in.c, chunk, tile.head, in, room.c);
    if (chunk.last) d_state = lane.template load<pack>(launch.d_leaving ? launch.d_leaving + chunk.run * in.state_size() : nullptr);
    __syncthreads();
    const int pieces = (chunk.length + kPieceBack - 1) / kPieceBack;
    if (pieces > 0) {
      auto state = lane.template load<pack>(launch.borders + chunk.border * in.state_size());
      for (int p = 0; p + 1 < pieces; ++p) {
        room.save(p, state);
        advance(room, p * kPieceBack, lane, rate, state);
      }
      room.save(pieces - 1, state);
    }
    for (int p = pieces; p-- > 0;) {
      float* const parts = room.parts + p % 2 * kWarpsBack * kPart;
      return_through(room, p * kPieceBack, lane, rate, room.restore(p), d_state, d_rate, parts + threadIdx.x / kWarp * kPart);
      __syncthreads();
      add_warps(parts, chunk.length - p * kPieceBack,
                launch.token_parts + (blockIdx.x * launch.tokens + chunk.token + p * kPieceBack) * kTokenSums);
    }
    store_gradients<pack>(launch, chunk, tile, room);
    __syncthreads();
    if (channel < tile.width)
      for (int t = 0; t < chunk.length; ++t) d_channel += (of_bias ? room.d_step : room.input)[t * kChannels + channel];
    if (chunk.first && chunk.enters >= 0 && launch.d_h0) lane.template store<pack>(d_state, launch.d_h0 + chunk.enters * in.state_size());
    __syncthreads();
  }
  if (launch.d_a_log) {
    d_rate.each([&](int k, int m) { d_rate.v[k][m] *= kLn2 * rate.v[k][m]; });
    lane.template store<pack>(d_rate, launch.d_a_log + blockIdx.y * in.state_size());
  }
  float* const d_channels = of_bias ? launch.d_bias : launch.d_skip;
  if (launch.last && d_channels && channel < tile.width) d_channels[blockIdx.y * in.channels + tile.channel + channel] = d_channel;
}

// The gradients of b and c from what the tiles of a head add to them.
template <class T>
__global__ void add_tiles(int64_t tokens, int64_t heads, int64_t tiles_a_head, int states, int first_state, const float* parts, T* db,
                          T* dc) {
  for_each_item(tokens * heads * kTokenSums, [&](int64_t i) {
    const int value = static_cast<int>(i % kTokenSums), n = first_state + value % kStates;
    const int64_t token = i / kTokenSums / heads, head = i / kTokenSums % heads;
    if (n >= states) return;
    float sum = 0;
    for (int64_t tile = head * tiles_a_head; tile < (head + 1) * tiles_a_head; ++tile)
      sum += parts[(tile * tokens + token) * kTokenSums + value];
    (value < kStates ? db : dc)[(token * heads + head) * states + n] = static_cast<T>(sum);
  });
}

// Room for a part of a parameter's gradient a share, where it is wanted.
Tensor room_for_parts(const Tensor& gradient, const Plan& plan) {
  return gradient ? room_for(Shape{std::ssize(plan.shares), gradient.numel()}) : Tensor();
}

template <class T>
void backward(const SelectiveScanBackward& args) {
  const SelectiveScanGradients& gradients = args.gradients;
  const Plan plan(args.in, 1, 0.3);
  const Tensor behind = gradients_behind_shares(args.in, plan, args.dy, args.d_leaving);
  const auto chunks = upload(plan.chunks);
  const auto shares = upload(plan.shares);
  const Operands<T> in(args.in, plan);
  const int64_t tokens = args.in.x.dim(0) * args.in.x.dim(1), heads = args.in.b.dim(2);
  const Tensor sums = in.states > kStates ? room_for(Shape{3, tokens, in.channels}) : Tensor();
  const Tensor token_parts = room_for(Shape{plan.tiles, tokens, kTokenSums});
  const Tensor d_a_log = room_for_parts(gradients.a_log, plan), d_bias = room_for_parts(gradients.dt_bias, plan),
               d_skip = room_for_parts(gradients.d_skip, plan);
  BackwardLaunch<T> launch{.in = in,
                           .chunks = chunks.data,
                           .shares = shares.data,
                           .behind = floats_of(behind),
                           .dy = rows_of<T>(args.dy),
                           .d_leaving = floats_of(args.d_leaving),
                           .borders = args.borders.data<float>(),
                           .dx = rows_of<T>(gradients.x),
                           .d_dt = rows_of<T>(gradients.dt),
                           .dz = gradients.z ? rows_of<T>(gradients.z) : Rows<T>{},
                           .d_h0 = floats_of(gradients.h0),
                           .d_a_log = floats_of(d_a_log),
                           .d_bias = floats_of(d_bias),
                           .d_skip = floats_of(d_skip),
                           .token_parts = token_parts.data<float>(),
                           .tokens = tokens,
                           .sums = floats_of(sums),
                           .last = false};
  constexpr int kPack = kPackWidth<T>;
  const auto fits = [](const Rows<T>& rows) { return !rows.data || packs(rows.data, rows.stride, kPack); };
  const bool all_fit = in.packs(kPack) && fits(launch.dy) && fits(launch.dx) && fits(launch.d_dt) && fits(launch.dz) &&
                       packs(launch.d_leaving, 0, kLaneStates);
  for_each_launch(in.states, [&](int first, bool last) {
    launch.in.first_state = first;
    launch.last = last;
    with_packs<T>(all_fit, [&]<int pack>() {
      run(backward<pack, T>, {.blocks = plan.blocks(), .threads = dim3(kThreadsBack), .shared = BackwardRoom::bytes()}, launch);
    });
    run(add_tiles<T>, grid_for(tokens * heads * kTokenSums), tokens, heads, plan.tiles_a_head, in.states, first, token_parts.data<float>(),
        gradients.b.data<T>(), gradients.c.data<T>());
  });
  if (d_a_log) add_parts(d_a_log, gradients.a_log);
  if (d_bias) add_parts(d_bias, gradients.dt_bias);
  if (d_skip) add_parts(d_skip, gradients.d_skip);
}

}  // namespace

void launch(Cuda, const SelectiveScanForward& args) {
  dispatch_narrow(args.y.dtype(), [&]<class T>(std::type_identity<T>) { forward<T>(args); });
}

void launch(Cuda, const SelectiveScanBackward& args) {
  dispatch_narrow(args.dy.dtype(), [&]<class T>(std::type_identity<T>) { backward<T>(args); });
}

}  // namespace ropewalk
