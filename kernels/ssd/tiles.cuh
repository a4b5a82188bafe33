// What the SSD kernels share. A chunk's tokens are taken in blocks of kTile, and what two tokens of it have to do with each other in tiles
// of two such blocks, of which only the causal ones are ever made. A block of threads has a warp for every 16 rows of a tile. Letters as in
// ssd_tasks.h: P width of a head, N size of the state, cum_i the sum of a_t inside the chunk up to i.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/unroll.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/ssd/ssd.h"

// Not ropewalk::ssd, which the CPU half lives in.
namespace ropewalk::cuda::ssd {

constexpr int kTile = 64;
constexpr int kStride = kTile + 8;  // of a tile in shared memory
constexpr int kThreads = 128;
// Blocks that a multiprocessor holds at once: what limits their registers. fp32 has fragments of three parts.
template <class T>
constexpr int blocks_at_once(int of_bfloat16) {
  return std::is_same_v<T, bfloat16> ? of_bfloat16 : 2;
}
constexpr int kSlices = kTile / 8;  // of a warp's 16 rows of a tile: columns of one Sums each

__device__ constexpr int at_most(int most, int n) { return n < most ? n : most; }

// Blocks `row` and `column` of a chunk.
struct Tile {
  int64_t batch, begin;  // of the chunk's tokens
  int chunk, length;
  int row, column;
  int64_t first_pair;  // of the chunk's pairs of blocks, all chunks counted

  __device__ int rows() const { return at_most(kTile, length - row * kTile); }
  __device__ int columns() const { return at_most(kTile, length - column * kTile); }
  __device__ int blocks() const { return (length + kTile - 1) / kTile; }
  __device__ int64_t pair(int i, int j) const { return first_pair + static_cast<int64_t>(i) * (i + 1) / 2 + j; }
};

// What a launch is cut into, on the GPU.
struct Plan {
  explicit Plan(const std::vector<SsdChunk>& of_chunks) {
    std::vector<Tile> all, of_blocks, of_pairs;
    for (const SsdChunk& chunk : of_chunks) {
      Tile tile{.batch = chunk.row,
                .begin = chunk.begin,
                .chunk = static_cast<int>(all.size()),
                .length = static_cast<int>(chunk.length),
                .row = 0,
                .column = 0,
                .first_pair = static_cast<int64_t>(of_pairs.size())};
      all.push_back(tile);
      for (tile.row = 0; tile.row * kTile < tile.length; ++tile.row) {
        tile.column = tile.row;
        of_blocks.push_back(tile);
        for (tile.column = 0; tile.column <= tile.row; ++tile.column) of_pairs.push_back(tile);
      }
    }
    chunks = static_cast<int64_t>(all.size());
    blocks = static_cast<int64_t>(of_blocks.size());
    pairs = static_cast<int64_t>(of_pairs.size());
    all.insert(all.end(), of_blocks.begin(), of_blocks.end());
    all.insert(all.end(), of_pairs.begin(), of_pairs.end());
    tiles = upload(all);
  }
  const Tile* chunk_table() const { return tiles.data; }
  const Tile* block_table() const { return tiles.data + chunks; }
  const Tile* pair_table() const { return tiles.data + chunks + blocks; }

  int64_t chunks, blocks, pairs;
  Uploaded<Tile> tiles;  // chunks, then their blocks, then their pairs
};

// Rows of a [B, S, heads, width] tensor, or of [B, S, heads] with a width of one.
template <class T>
struct Heads {
  Heads() = default;
  explicit Heads(const Tensor& x)
      : data(x.data<std::remove_const_t<T>>()),
        batch(x.stride(0)),
        token(x.stride(1)),
        head(x.stride(2)),
        width(x.rank() == 4 ? x.dim(3) : 1) {
    constexpr int kPack = kPackWidth<T>;
    packed = width % kPack == 0 && packs(data, batch, kPack) && token % kPack == 0 && head % kPack == 0;
  }
  __device__ T* at(const Tile& tile, int block, int64_t h) const {
    return data + tile.batch * batch + (tile.begin + static_cast<int64_t>(block) * kTile) * token + h * head;
  }

  T* data = nullptr;
  int64_t batch = 0, token = 0, head = 0;
  int width = 0;
  bool packed = false;  // whether rows can be read sixteen bytes at a time
};

// The sum of a_t so far in two parts: differences are what counts, and it grows.
struct alignas(8) Cum {
  float high, low;
  __device__ float operator-(const Cum& other) const { return (high - other.high) + (low - other.low); }
  __device__ float value() const { return high + low; }
};

// Something a head and token, heads first.
template <class E>
struct OfTokens {
  E* data;
  int64_t tokens_a_row, tokens;
  __device__ E* at(const Tile& tile, int64_t h) const { return data + h * tokens + tile.batch * tokens_a_row + tile.begin; }
};

// The heads that one block takes, one after the other: of a group a part.
struct HeadParts {
  int heads_a_group, parts;
  __device__ int group() const { return static_cast<int>(blockIdx.y) / parts; }
  __device__ int part() const { return static_cast<int>(blockIdx.y) % parts; }
  __device__ int first() const { return group() * heads_a_group + boundary(part()); }
  __device__ int last() const { return group() * heads_a_group + boundary(part() + 1); }
  __device__ int boundary(int part) const { return heads_a_group * part / parts; }
};
// As few parts as fill the GPU, of two heads at least: they share operands.
inline HeadParts head_parts(int64_t blocks, int64_t groups, int64_t heads) {
  constexpr int64_t kEnough = 132 * 8;
  const int64_t each = heads / groups, wanted = ceil_div(kEnough, std::max<int64_t>(1, blocks * groups));
  return {.heads_a_group = static_cast<int>(each), .parts = static_cast<int>(std::max<int64_t>(1, std::min(ceil_div(each, 2), wanted)))};
}

// ---- tiles in shared memory

__device__ inline int warp_row() { return static_cast<int>(threadIdx.x) / kWarp * 16; }

struct AsItIs {
  template <class T>
  __device__ T operator()(int, T x) const {
    return x;
  }
};
// Rows times a factor each.
struct Weighted {
  const float* factor;
  template <class T>
  __device__ float operator()(int row, T x) const {
    return factor[row] * static_cast<float>(x);
  }
};

// to[r][c] <- map(r, from[r * stride + c]), zeros beyond `rows` and `columns`. `packed`: rows can be read in packs, and so can `columns`.
// There for all after tiles_are_there().
template <class T, class From, class Map = AsItIs>
__device__ void load_tile(T* to, const From* from, int64_t stride, int rows, int columns, bool packed, const Map& map = {}) {
  if (packed && std::is_same_v<T, From> && std::is_same_v<Map, AsItIs>) {
    constexpr int kPack = kPackWidth<From>, kOfRow = kTile / kPack;
    using Whole = Pack<From, kPack>;
    for (int item = static_cast<int>(threadIdx.x); item < kTile * kOfRow; item += kThreads) {
      const int r = item / kOfRow, c = item % kOfRow * kPack;
      copy_later(reinterpret_cast<Whole*>(to + r * kStride + c), reinterpret_cast<const Whole*>(from + r * stride + c),
                 r < rows && c < columns);
    }
  } else if (packed) {
    constexpr int kPack = kPackWidth<From>, kOfRow = kTile / kPack, kAtOnce = 4;  // packs of a thread on their way
    for (int begin = static_cast<int>(threadIdx.x); begin < kTile * kOfRow; begin += kAtOnce * kThreads) {
      Pack<From, kPack> packs[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) {
        const int item = begin + i * kThreads, r = item / kOfRow, c = item % kOfRow * kPack;
        packs[i] = r < rows && c < columns ? load_pack<kPack>(from + r * stride + c) : Pack<From, kPack>{};
      }
      for (int i = 0; i < kAtOnce; ++i) {
        const int item = begin + i * kThreads, r = item / kOfRow, c = item % kOfRow * kPack;
        Pack<T, kPack> converted;
        for (int k = 0; k < kPack; ++k) converted.v[k] = static_cast<T>(map(r, packs[i].v[k]));
        store_pack(to + r * kStride + c, converted);
      }
    }
  } else {
    for (int item = static_cast<int>(threadIdx.x); item < kTile * kTile; item += kThreads) {
      const int r = item / kTile, c = item % kTile;
      to[r * kStride + c] = r < rows && c < columns ? static_cast<T>(map(r, from[r * stride + c])) : T{};
    }
  }
}

__device__ inline void tiles_are_there() {
  wait_for_copies();
  __syncthreads();
}

// The warp's 16 rows of a tile, to[r * stride + c] <- tile[r][c].
template <class T>
__device__ void store_rows(T* to, int64_t stride, const T* tile, int rows, int columns, bool packed) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (packed) {
    constexpr int kPack = kPackWidth<T>, kOfRow = kTile / kPack;
    for (int item = lane; item < 16 * kOfRow; item += kWarp) {
      const int r = warp_row() + item / kOfRow, c = item % kOfRow * kPack;
      if (r < rows && c < columns) store_pack(to + r * stride + c, load_pack<kPack>(tile + r * kStride + c));
    }
  } else {
    for (int item = lane; item < 16 * kTile; item += kWarp) {
      const int r = warp_row() + item / kTile, c = item % kTile;
      if (r < rows && c < columns) to[r * stride + c] = tile[r * kStride + c];
    }
  }
}

// ---- a warp's 16 rows of a product of tiles

using RowSums = Sums[kSlices];

// nvcc 13.0 does not initialise arrays of arrays, whatever Sums says of its members.
template <int n>
__device__ void clear(RowSums (&sums)[n]) {
  for (RowSums& some : sums)
    for (Sums& each : some) each = Sums{};
}

// Where element i of slice s stands in its tile.
__device__ inline int row_of(int i) { return warp_row() + Sums::row(i); }
__device__ inline int column_of(int s, int i) { return s * 8 + Sums::column(i); }

template <class Body>
__device__ void for_each_sum(RowSums& sums, const Body& body) {
  for (int s = 0; s < kSlices; ++s)
    for (int i = 0; i < 4; ++i) body(sums[s].v[i], row_of(i), column_of(s, i));
}

// sums += a y^T, and a y: 16 columns and rows of y
template <class T>
__device__ void multiply_add_transposed(RowSums& sums, const FragmentA<T>& a, const T* y) {
  for (int s = 0; s < kSlices; s += 2) {
    FragmentB<T> b[2];
    load_b_transposed(y + s * 8 * kStride, kStride, b);
    for (int i = 0; i < 2; ++i) multiply_add(sums[s + i], a, b[i]);
  }
}
template <class T>
__device__ void multiply_add(RowSums& sums, const FragmentA<T>& a, const T* y) {
  for (int s = 0; s < kSlices; s += 2) {
    FragmentB<T> b[2];
    load_b(y + s * 8, kStride, b);
    for (int i = 0; i < 2; ++i) multiply_add(sums[s + i], a, b[i]);
  }
}

// sums += x y^T over k columns
template <class T>
__device__ void add_product_transposed(RowSums& sums, const T* x, const T* y, int k) {
  for (int at = 0; at < k; at += 16) multiply_add_transposed(sums, load_a(x + warp_row() * kStride + at, kStride), y + at);
}
// sums += x y over k columns of x
template <class T>
__device__ void add_product(RowSums& sums, const T* x, const T* y, int k) {
  for (int at = 0; at < k; at += 16) multiply_add(sums, load_a(x + warp_row() * kStride + at, kStride), y + at * kStride);
}
// sums += x^T y over k rows of x
template <class T>
__device__ void add_transposed_product(RowSums& sums, const T* x, const T* y, int k) {
  for (int at = 0; at < k; at += 16) multiply_add(sums, load_a_transposed(x + at * kStride + warp_row(), kStride), y + at * kStride);
}

// to[r * stride + c] <- the sums, two neighbours at a time where `paired` says that they may be.
template <class Y>
__device__ void store_sums(Y* to, int64_t stride, const RowSums& sums, int rows, int columns, bool paired) {
  for (int s = 0; s < kSlices; ++s)
    for (int i = 0; i < 4; i += 2) {
      const int r = row_of(i), c = column_of(s, i);
      if (r >= rows) continue;
      Y* const at = to + r * stride + c;
      const Pack<Y, 2> pair{static_cast<Y>(sums[s].v[i]), static_cast<Y>(sums[s].v[i + 1])};
      if (paired && c < columns) {
        store_pack(at, pair);
      } else {
        if (c < columns) at[0] = pair.v[0];
        if (c + 1 < columns) at[1] = pair.v[1];
      }
    }
}

}  // namespace ropewalk::cuda::ssd
