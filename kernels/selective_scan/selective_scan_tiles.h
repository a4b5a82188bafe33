// How the launches of the selective scan cut their work, and how operands come into tiles and results out of them.
#pragma once

#include <algorithm>

#include "kernels/selective_scan/selective_scan.h"
#include "kernels/selective_scan/selective_scan_leaves.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/scratch.h"
#include "kernels/tensor/vectorized.h"

// The channels of each head are cut into tiles of kLanes, the runs into chunks of kTokens. A task is a group of tiles over a share of the
// runs; it takes the tiles of a chunk in turn, so that neighbouring tiles share cache lines, and its scratch stays in the second cache.
// States are [padded N, kLanes] a tile: an odd state gets a neighbour that is always zero.
namespace ropewalk::s6 {

constexpr int64_t kTokens = 64;
constexpr int64_t kTileSize = (kTokens + 1) * kLanes;
constexpr int64_t kGroupTiles = 8;
constexpr int64_t kGroupSize = kGroupTiles * kTileSize;
constexpr int64_t kShares = 16;  // at most: each has its own sums of the parameters' gradients

inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

struct Tile {
  int64_t index;           // among those of all heads
  int64_t channel, width;  // the first, and how many
};
struct Group {
  int64_t index, head;
  int64_t first_tile, tiles;  // in the head
  int64_t channel, width;
};
struct Chunk {
  int64_t index;       // among those of all runs
  int64_t row, begin;  // of the first token
  int64_t length;
};

struct Tiling {
  explicit Tiling(const SelectiveScanOperands& in)
      : heads(in.b.dim(2)), width(in.x.dim(2) / heads), states(in.b.dim(3)), padded(divide_up(states, kPair) * kPair) {
    for (const Run& run : in.runs) first_chunk.push_back(first_chunk.back() + divide_up(run.length, kTokens));
  }

  int64_t tiles_a_head() const { return divide_up(width, kLanes); }
  int64_t groups_a_head() const { return divide_up(tiles_a_head(), kGroupTiles); }
  int64_t tiles() const { return heads * tiles_a_head(); }
  int64_t groups() const { return heads * groups_a_head(); }
  int64_t tile_size() const { return padded * kLanes; }  // of a state

  Group group(int64_t index) const {
    const int64_t head = index / groups_a_head(), first = index % groups_a_head() * kGroupTiles;
    return {.index = index,
            .head = head,
            .first_tile = first,
            .tiles = std::min(kGroupTiles, tiles_a_head() - first),
            .channel = head * width + first * kLanes,
            .width = std::min(kGroupTiles * kLanes, width - first * kLanes)};
  }
  Tile tile(int64_t head, int64_t i) const {
    return {head * tiles_a_head() + i, head * width + i * kLanes, std::min<int64_t>(kLanes, width - i * kLanes)};
  }
  Tile tile(const Group& group, int64_t i) const { return tile(group.head, group.first_tile + i); }

  int64_t heads, width, states, padded;
  std::vector<int64_t> first_chunk = {0};  // by run, and behind the last
};

// [B, S, H, N] as chunks of a head.
template <class T>
struct StateVectors {
  explicit StateVectors(const Tensor& x) : data(x.data<T>()), row(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}

  // to [tokens, padded]
  void load(const Chunk& chunk, int64_t h, const Tiling& tiling, Wide<T>* to) const {
    const T* from = data + chunk.row * row + chunk.begin * token + h * head;
    for (int64_t t = 0; t < chunk.length; ++t)
      for (int64_t n = 0; n < tiling.padded; ++n)
        to[t * tiling.padded + n] = n < tiling.states ? static_cast<Wide<T>>(from[t * token + n]) : Wide<T>(0);
  }

  T* data;
  int64_t row, token, head;
};

// What all tasks read; the parameters as the loops want them.
template <class T>
struct Operands {
  using W = Wide<T>;

  explicit Operands(const SelectiveScanOperands& in)
      : tiling(in),
        rows(in.x.dim(0)),
        tokens(in.x.dim(1)),
        runs(in.runs),
        x(rows_of<T>(in.x)),
        dt(rows_of<T>(in.dt)),
        z(in.z ? rows_of<T>(in.z) : Rows<T>{}),
        b(in.b),
        c(in.c),
        h0(in.h0 ? in.h0.data<W>() : nullptr),
        rates(tiling.tiles() * tiling.tile_size()),
        biases(tiling.tiles() * kLanes),
        skips(tiling.tiles() * kLanes) {
    const W *a_log = in.a_log.data<W>(), *dt_bias = in.dt_bias.data<W>(), *d_skip = in.d_skip.data<W>();
    for (const auto* parameter : {&rates, &biases, &skips}) parameter->zero();
    for_each_tile([&](const Tile& tile) {
      vectorized<rates_of_tile<W>>(tile.width, tiling.states, a_log + tile.channel * tiling.states, rate(tile));
      std::copy_n(dt_bias + tile.channel, tile.width, bias(tile));
      std::copy_n(d_skip + tile.channel, tile.width, skip(tile));
    });
  }

  W* rate(const Tile& tile) const { return rates + tile.index * tiling.tile_size(); }
  W* bias(const Tile& tile) const { return biases + tile.index * kLanes; }
  W* skip(const Tile& tile) const { return skips + tile.index * kLanes; }

  template <class Body>
  void for_each_tile(const Body& body) const {
    parallel_for(tiling.tiles(), [&](int64_t i) { body(tiling.tile(i / tiling.tiles_a_head(), i % tiling.tiles_a_head())); });
  }

  int64_t shares() const { return std::min<int64_t>(kShares, std::ssize(runs)); }
  int64_t first_run(int64_t share) const { return share * std::ssize(runs) / shares(); }
  // Calls body(share, group) for all of them, in parallel.
  template <class Body>
  void for_each_task(const Body& body) const {
    parallel_for(shares() * tiling.groups(), [&](int64_t task) { body(task / tiling.groups(), tiling.group(task % tiling.groups())); });
  }

  int64_t chunks(int64_t run) const { return tiling.first_chunk[run + 1] - tiling.first_chunk[run]; }
  Chunk chunk(int64_t run, int64_t i) const {
    const Run& of = runs[run];
    return {tiling.first_chunk[run] + i, of.row, of.begin + i * kTokens, std::min(kTokens, of.length - i * kTokens)};
  }
  int64_t border(const Chunk& chunk, const Tile& tile) const { return (chunk.index * tiling.tiles() + tile.index) * tiling.tile_size(); }
  int64_t row_of(const Chunk& chunk) const { return chunk.row * tokens + chunk.begin; }

  // The group's channels of a chunk, as tiles that lie kTileSize apart.
  void load(const Rows<T>& from, const Chunk& chunk, const Group& group, W* to) const {
    vectorized<load_tiles<T>>(chunk.length, group.width, from[row_of(chunk)] + group.channel, from.stride, to, kTileSize);
  }
  void store(const W* from, const Chunk& chunk, const Group& group, const Rows<T>& to) const {
    vectorized<store_tiles<T>>(chunk.length, group.width, from, kTileSize, to[row_of(chunk)] + group.channel, to.stride);
  }

  // Between a tile of states and its place in [.., C, N]; `from` and `to` are of one run.
  void load_state(const W* from, const Tile& tile, W* to) const {
    std::fill_n(to, tiling.tile_size(), W(0));
    if (!from) return;
    for (int64_t s = 0; s < tile.width; ++s)
      for (int64_t n = 0; n < tiling.states; ++n) to[n * kLanes + s] = from[(tile.channel + s) * tiling.states + n];
  }
  void store_state(const W* from, const Tile& tile, W* to) const {
    for (int64_t s = 0; s < tile.width; ++s)
      for (int64_t n = 0; n < tiling.states; ++n) to[(tile.channel + s) * tiling.states + n] = from[n * kLanes + s];
  }
  int64_t state_size() const { return tiling.heads * tiling.width * tiling.states; }
  const W* entering(const Run& run) const { return h0 && !run.opens() ? h0 + run.enters * state_size() : nullptr; }

  Tiling tiling;
  int64_t rows, tokens;
  const Runs& runs;
  Rows<T> x, dt, z;
  StateVectors<T> b, c;
  const W* h0;
  Scratch<W> rates, biases, skips;
};

// A chunk of a group on its way through the scan: what was loaded [tiles, kTokens, kLanes], b and c of its head, and the tile that is being
// worked on. What was loaded makes room for what is to be stored.
template <class T>
struct GroupScratch {
  using W = Wide<T>;

  explicit GroupScratch(const Tiling& tiling) : b(kTokens * tiling.padded), c(kTokens * tiling.padded) {}

  void load(const Operands<T>& in, const Chunk& chunk, const Group& group) const {
    in.b.load(chunk, group.head, in.tiling, b);
    in.c.load(chunk, group.head, in.tiling, c);
    in.load(in.x, chunk, group, x);
    in.load(in.dt, chunk, group, raw);
    if (in.z.data) in.load(in.z, chunk, group, z);
  }

  const Scratch<W> b, c;
  const Scratch<W> x{kGroupSize}, raw{kGroupSize}, z{kGroupSize};
  const Scratch<W> step{kTileSize}, input{kTileSize};
};

// Every task over its share of the runs; a task is made of the operands, the launch and its group.
template <template <class> class Task, class T, class Launch>
void run_tasks(const Launch& launch) {
  const Operands<T> in(launch.in);
  in.for_each_task([&](int64_t share, const Group& group) {
    Task<T> task(in, launch, group);
    for (int64_t r = in.first_run(share); r < in.first_run(share + 1); ++r) task.run(r);
  });
}

}  // namespace ropewalk::s6
