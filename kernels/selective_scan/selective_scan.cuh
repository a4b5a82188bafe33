// How the GPU cuts a selective scan, and what its kernels share.
//
// A block takes a tile of kChannels channels of one head over a share of the tokens, chunk after chunk. In a warp, four neighbouring lanes
// hold the kStates states of the same `held` channels, four states each: what is a sum over states is a sum over those lanes, what is a sum
// over channels one over the other eight lanes. The chunk's operands lie in shared memory as fp32, zeros where there is no token, channel
// or state: a step of zero leaves a state as it is. More than kStates states take several launches, each adding to the sums of those
// before.
//
// Where channels and rows alone do not fill the GPU, runs are cut at the borders of shares. The state that enters such a share is found
// first (states_entering_shares), from what each share does to any state.
#pragma once

#include "kernels/cuda/exp2.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/unroll.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/selective_scan/selective_scan.h"

namespace ropewalk::s6_gpu {

using namespace cuda;

constexpr int kTokens = 64;  // of a chunk: states are kept at its borders
constexpr int kChannels = 128, kStates = 16;
constexpr int kLaneStates = 4, kStateLanes = kStates / kLaneStates, kChannelLanes = kWarp / kStateLanes;
constexpr int kTileSize = kTokens * kChannels, kVectors = kTokens * kStates;
constexpr float kLog2OfE = 1.44269504f, kLn2 = 0.693147181f;

// Threads of a block where a lane holds the states of so many channels.
template <int held>
constexpr int kThreads = kChannels / held* kStateLanes;

// ---- the work

struct Chunk {
  int64_t row, begin, token;  // of the batch; in the row; among all
  int64_t run, enters;
  int64_t border;  // among the states at borders
  int32_t length;
  bool first, last;  // of the run. One without tokens is a chunk as well
};
struct Range {
  int64_t begin, end;  // chunks
};

// The chunks of all runs in order, cut into shares of as many each.
struct Plan {
  // `blocks`: that keep a multiprocessor busy; `price`: what finding the states that enter shares costs, in times of the launch itself.
  Plan(const SelectiveScanOperands& in, int blocks, double price);

  dim3 blocks() const { return dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(shares.size())); }

  std::vector<Chunk> chunks;
  std::vector<Range> shares;
  int64_t tiles_a_head, tiles;
};

// ---- operands

template <class T>
struct StateVectors {
  explicit StateVectors(const Tensor& x) : data(x.data<T>()), row(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}
  StateVectors() = default;

  T* data = nullptr;
  int64_t row = 0, token = 0, head = 0;
};

template <class T>
struct Operands {
  Operands(const SelectiveScanOperands& in, const Plan& plan)
      : x(rows_of<T>(in.x)),
        dt(rows_of<T>(in.dt)),
        z(in.z ? rows_of<T>(in.z) : Rows<T>{}),
        b(in.b),
        c(in.c),
        a_log(in.a_log.data<float>()),
        dt_bias(in.dt_bias.data<float>()),
        d_skip(in.d_skip.data<float>()),
        h0(in.h0 ? in.h0.data<float>() : nullptr),
        channels(in.x.dim(2)),
        states(static_cast<int>(in.b.dim(3))),
        head_width(channels / in.b.dim(2)),
        tiles_a_head(plan.tiles_a_head) {}

  // Whether all can be read n elements at a time.
  bool packs(int n) const {
    const auto rows = [n](const Rows<T>& of) { return !of.data || cuda::packs(of.data, of.stride, n); };
    const auto vectors = [n](const StateVectors<T>& of) {
      return cuda::packs(of.data, of.row, n) && of.token % n == 0 && of.head % n == 0;
    };
    return states % n == 0 && head_width % n == 0 && rows(x) && rows(dt) && rows(z) && vectors(b) && vectors(c) &&
           cuda::packs(h0, 0, kLaneStates) && cuda::packs(a_log, 0, kLaneStates);
  }

  Rows<T> x, dt, z;  // z.data may be null
  StateVectors<T> b, c;
  const float *a_log, *dt_bias, *d_skip, *h0;
  int64_t channels;
  int states, first_state = 0;  // of this launch
  int64_t head_width, tiles_a_head;

  __device__ int64_t state_size() const { return channels * states; }  // of all channels
  __device__ const float* entering(const Chunk& chunk) const {
    return h0 && chunk.enters >= 0 ? h0 + chunk.enters * state_size() : nullptr;
  }
};

// Calls body.operator()<pack>() for the widest packs that all operands allow.
template <class T, class Body>
void with_packs(bool fits, const Body& body) {
  fits ? body.template operator()<kPackWidth<T>>() : body.template operator()<1>();
}

// Calls body(first state, whether it is the last launch) for each kStates states; once where there are none.
template <class Body>
void for_each_launch(int64_t states, const Body& body) {
  for (int64_t first = 0; first == 0 || first < states; first += kStates) body(static_cast<int>(first), first + kStates >= states);
}

// The state that enters each share from the one before it, or the gradient of what it hands to the one behind it: [shares, C, N], undefined
// where a share begins, or ends, with a run. Empty where there is one share.
Tensor states_entering_shares(const SelectiveScanOperands& in, const Plan& plan);
Tensor gradients_behind_shares(const SelectiveScanOperands& in, const Plan& plan, const Tensor& dy, const Tensor& d_leaving);

// ---- device code

// 2^x for x <= 0, by the special function unit, to 2^-22; zero below 2^-126. Near 0 it is 1 + x p(x) instead, p interpolating (2^x - 1) / x
// on [-1/8, 0] to 8.5e-7: then 1 - 2^x is right as well, and a state that decays slowly may multiply thousands of these.
__device__ inline float decay_of(float x) {
  const float p = (0.0537353554f * x + 0.240144055f) * x + 0.693146609f;
  return x > -0.125f ? x * p + 1.0f : fast_exp2(x);
}

// log(1 + e^x), log1p(u) = 2 atanh(u / (2 + u)) by its series for u <= 1.
__device__ inline float softplus(float x) {
  const float u = expf(-fabsf(x)), s = __fdividef(u, 2.0f + u), square = s * s;
  float p = 1.0f / 15;
  p = p * square + 1.0f / 13;
  p = p * square + 1.0f / 11;
  p = p * square + 1.0f / 9;
  p = p * square + 1.0f / 7;
  p = p * square + 1.0f / 5;
  p = p * square + 1.0f / 3;
  return fmaxf(x, 0.0f) + 2 * s + 2 * s * square * p;
}

// The channels of a block.
struct Tile {
  template <class T>
  __device__ explicit Tile(const Operands<T>& in) : head(blockIdx.x / in.tiles_a_head) {
    const int64_t first = blockIdx.x % in.tiles_a_head * kChannels, rest = in.head_width - first;
    channel = head * in.head_width + first;
    width = static_cast<int>(rest < kChannels ? rest : kChannels);
  }
  int64_t head, channel;
  int width;
};

// This thread's share of a tile [kTokens, kChannels]: use(t, c, load(t, c)) for its packs, several loads before the first use. Always the
// same c.
template <int held, int pack, class Load, class Use>
__device__ void for_each_pack(const Load& load, const Use& use) {
  constexpr int kAcross = kChannels / pack, kRows = kThreads<held> / kAcross, kTimes = kTokens / kRows, kBatch = kTimes < 4 ? kTimes : 4;
  const int c = static_cast<int>(threadIdx.x) % kAcross * pack, first = static_cast<int>(threadIdx.x) / kAcross;
  for (int i = 0; i < kTimes; i += kBatch) {
    decltype(load(0, 0)) loaded[kBatch];
    unrolled<kBatch>([&](int j) { loaded[j] = load(first + (i + j) * kRows, c); });
    unrolled<kBatch>([&](int j) { use(first + (i + j) * kRows, c, loaded[j]); });
  }
}

// A pack of a chunk; zeros where there is none.
template <int pack, class T>
__device__ Pack<T, pack> load_or_zero(const Rows<T>& from, const Chunk& chunk, const Tile& tile, int t, int c) {
  return t < chunk.length && c < tile.width ? load_pack<pack>(from[chunk.token + t] + tile.channel + c) : Pack<T, pack>{};
}

// to [kTokens, kStates]
template <int held, int pack, class T>
__device__ void load_vectors(const StateVectors<T>& from, const Chunk& chunk, int64_t head, const Operands<T>& in, float* to) {
  const T* const first = from.data + chunk.row * from.row + chunk.begin * from.token + head * from.head + in.first_state;
  const int states = in.states - in.first_state;
  for (int i = static_cast<int>(threadIdx.x) * pack; i < kVectors; i += kThreads<held> * pack) {
    const int t = i / kStates, n = i % kStates;
    const auto loaded = t < chunk.length && n < states ? load_pack<pack>(first + t * from.token + n) : Pack<T, pack>{};
    for (int k = 0; k < pack; ++k) to[i + k] = loaded.v[k];
  }
}

// step = softplus(dt + bias) [kTokens, kChannels]
template <int held, int pack, class T>
__device__ void load_steps(const Operands<T>& in, const Chunk& chunk, const Tile& tile, float* step) {
  for_each_pack<held, pack>([&](int t, int c) { return load_or_zero<pack>(in.dt, chunk, tile, t, c); },
                            [&](int t, int c, const Pack<T, pack>& dt) {
                              Pack<float, pack> steps{};
                              if (t < chunk.length && c < tile.width)
                                unrolled<pack>([&](int k) { steps.v[k] = softplus(float(dt.v[k]) + in.dt_bias[tile.channel + c + k]); });
                              store_pack(step + t * kChannels + c, steps);
                            });
}

// The same, and input = step x.
template <int held, int pack, class T>
__device__ void load_inputs(const Operands<T>& in, const Chunk& chunk, const Tile& tile, float* step, float* input) {
  struct Loaded {
    Pack<T, pack> x, dt;
  };
  for_each_pack<held, pack>(
      [&](int t, int c) -> Loaded {
        return {load_or_zero<pack>(in.x, chunk, tile, t, c), load_or_zero<pack>(in.dt, chunk, tile, t, c)};
      },
      [&](int t, int c, const Loaded& loaded) {
        Pack<float, pack> steps{}, inputs{};
        if (t < chunk.length && c < tile.width)
          unrolled<pack>([&](int k) {
            steps.v[k] = softplus(float(loaded.dt.v[k]) + in.dt_bias[tile.channel + c + k]);
            inputs.v[k] = steps.v[k] * float(loaded.x.v[k]);
          });
        store_pack(step + t * kChannels + c, steps);
        store_pack(input + t * kChannels + c, inputs);
      });
}

// The gradient of what enters the gate, where there is one: dy silu(z) [kTokens, kChannels].
template <int held, int pack, class T>
__device__ void load_gradients(const Operands<T>& in, const Rows<T>& dy, const Chunk& chunk, const Tile& tile, float* to) {
  struct Loaded {
    Pack<T, pack> dy, z;
  };
  for_each_pack<held, pack>(
      [&](int t, int c) -> Loaded {
        return {load_or_zero<pack>(dy, chunk, tile, t, c), in.z.data ? load_or_zero<pack>(in.z, chunk, tile, t, c) : Pack<T, pack>{}};
      },
      [&](int t, int c, const Loaded& loaded) {
        Pack<float, pack> open;
        unrolled<pack>([&](int k) { open.v[k] = float(loaded.dy.v[k]) * (in.z.data ? silu(float(loaded.z.v[k])).value : 1); });
        store_pack(to + t * kChannels + c, open);
      });
}

// What each lane holds: [held channels][kLaneStates].
template <int held>
struct LaneStates {
  float v[held][kLaneStates];

  template <class Body>
  __device__ static void each(const Body& body) {
    unrolled<held>([&](int k) { unrolled<kLaneStates>([&](int m) { body(k, m); }); });
  }
};

// Where this lane's states are.
template <int held>
struct Lane {
  template <class T>
  __device__ Lane(const Operands<T>& in, const Tile& tile)
      : group(static_cast<int>(threadIdx.x) % kStateLanes),
        channel(static_cast<int>(threadIdx.x) / kStateLanes * held),
        states(in.states - in.first_state - group * kLaneStates),
        channels(tile.width - channel),
        stride(in.states),
        offset((tile.channel + channel) * in.states + in.first_state + group * kLaneStates) {}

  __device__ bool has(int k, int m) const { return k < channels && m < states; }
  // Of a token, in [kTokens, kChannels] and in [kTokens, kStates].
  __device__ int at(int t) const { return t * kChannels + channel; }
  __device__ int vector_at(int t) const { return t * kStates + group * kLaneStates; }

  // To and from [C, N]; null: zeros.
  template <int pack>
  __device__ LaneStates<held> load(const float* from) const {
    LaneStates<held> to{};
    if (!from) return to;
    if constexpr (pack > 1)
      unrolled<held>([&](int k) {
        if (!has(k, 0)) return;
        const auto four = load_pack<kLaneStates>(from + offset + k * stride);
        unrolled<kLaneStates>([&](int m) { to.v[k][m] = four.v[m]; });
      });
    else
      to.each([&](int k, int m) {
        if (has(k, m)) to.v[k][m] = from[offset + k * stride + m];
      });
    return to;
  }
  template <int pack>
  __device__ void store(const LaneStates<held>& from, float* to) const {
    if constexpr (pack > 1)
      unrolled<held>([&](int k) {
        if (!has(k, 0)) return;
        Pack<float, kLaneStates> four;
        unrolled<kLaneStates>([&](int m) { four.v[m] = from.v[k][m]; });
        store_pack(to + offset + k * stride, four);
      });
    else
      from.each([&](int k, int m) {
        if (has(k, m)) to[offset + k * stride + m] = from.v[k][m];
      });
  }
  // -exp(a_log) log2(e): a token's decay is 2^(step rate).
  template <int pack>
  __device__ LaneStates<held> rates(const float* a_log) const {
    LaneStates<held> rate = load<pack>(a_log);
    rate.each([&](int k, int m) { rate.v[k][m] = has(k, m) ? -kLog2OfE * expf(rate.v[k][m]) : 0; });
    return rate;
  }

  int group, channel;  // of the states; the first of the tile
  int states, channels;
  int64_t stride, offset;
};

// Sums of v[0 .. n) over the lanes that differ in bits from `step` down to `last`. They share the sums out: the first of n / 2 values stay
// where the highest bit is not set, and so on; a single value goes to all.
template <int n, int step, int last>
__device__ void fold(float* v) {
  if constexpr (n > 1) {
    const bool upper = threadIdx.x & step;
    unrolled<n / 2>([&](int i) {
      const float kept = upper ? v[i + n / 2] : v[i], given = upper ? v[i] : v[i + n / 2];
      v[i] = kept + __shfl_xor_sync(kWholeWarp, given, step);
    });
  } else {
    v[0] += __shfl_xor_sync(kWholeWarp, v[0], step);
  }
  if constexpr (step > last) fold<(n + 1) / 2, step / 2, last>(v);
}
// Over the states: lane group g has v[g n / 4 .. (g + 1) n / 4) in v[0 .. n / 4).
template <int n>
__device__ void fold_states(float* v) {
  fold<n, kStateLanes / 2, 1>(v);
}
// Over the warp's channels, of kChannelLanes values: lane l has value l / kStateLanes in v[0].
__device__ inline void fold_channels(float* v) { fold<kChannelLanes, kWarp / 2, kStateLanes>(v); }

}  // namespace ropewalk::s6_gpu
