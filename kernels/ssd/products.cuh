// The products of SSD, each by blocks of kThreads that take kTile rows.
#pragma once

#include "kernels/ssd/steps.cuh"

namespace ropewalk::cuda::ssd {

// ---- scores: what the heads of a group share

// [pairs, groups, kTile, kTile], as the lanes of the warps hold them.
template <class T>
struct Scores {
  Scores(const Plan& plan, int64_t groups)
      : room(Tensor::empty({plan.pairs, groups, kTile * kTile}, dtype_of<T>(), Cuda{})), data(room.data<T>()) {}

  Tensor room;
  T* data;
};

// What a warp's lane holds of slice s.
__device__ inline int64_t score_index(int64_t pair_and_group, int s) {
  return (pair_and_group * (kTile / 16) + threadIdx.x / kWarp) * (kSlices * kWarp * 4) + (s * kWarp + threadIdx.x % kWarp) * 4;
}
template <class T>
__device__ Sums load_scores(const T* scores, int64_t pair_and_group, int s) {
  const auto pack = load_pack<4>(scores + score_index(pair_and_group, s));
  Sums sums;
  for (int i = 0; i < 4; ++i) sums.v[i] = static_cast<float>(pack.v[i]);
  return sums;
}

// Of rows of x and rows of y; x is the later one of each pair of blocks, or, `transposed`, the earlier.
template <class T>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(4))
    find_scores(const Tile* pairs, Heads<const T> x, Heads<const T> y, bool transposed, T* scores) {
  SharedMemory shared;
  T* const rows = shared.take<T>(kTile * kStride);
  T* const columns = shared.take<T>(kTile * kStride);
  const Tile tile = pairs[blockIdx.x];
  const T* const of_rows = x.at(tile, transposed ? tile.column : tile.row, blockIdx.y);
  const T* const of_columns = y.at(tile, transposed ? tile.row : tile.column, blockIdx.y);
  RowSums sums;
  for (int n = 0; n < x.width; n += kTile) {
    __syncthreads();
    load_tile(rows, of_rows + n, x.token, transposed ? tile.columns() : tile.rows(), x.width - n, x.packed);
    load_tile(columns, of_columns + n, y.token, transposed ? tile.rows() : tile.columns(), y.width - n, y.packed);
    tiles_are_there();
    add_product_transposed(sums, rows, columns, at_most(kTile, x.width - n));
  }
  const int64_t at = static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  for (int s = 0; s < kSlices; ++s) {
    Pack<T, 4> pack;
    for (int i = 0; i < 4; ++i) pack.v[i] = static_cast<T>(sums[s].v[i]);
    store_pack(scores + score_index(at, s), pack);
  }
}

// ---- states [chunks, heads, P, N]

// A tile of a state, from row p and column n on.
template <class T>
__device__ void load_state(T* to, const float* state, int width, int size, int p, int n, bool packed) {
  load_tile(to, state + static_cast<int64_t>(p) * size + n, size, width - p, size - n, packed);
}
inline bool state_packs(const float* states, int64_t size) { return packs(states, size, kPackWidth<float>); }

// What weighs a token in a product with a state: how much of it is left at the end of the chunk, times its step; how much is left at the
// token of what entered the chunk.
enum class Weight { kUntilEnd, kSinceStart };

template <Weight kind>
__device__ float weight_of(const Cum* cum, const float* step, int i, int length) {
  if (i >= length) return 0;
  if constexpr (kind == Weight::kSinceStart)
    return expf(cum[i].value());
  else
    return expf(cum[length - 1] - cum[i]) * step[i];
}

// to[chunk, head] = sum_i weight_i x_i z_i^T. A block has a tile of kTile times kHalves * kTile of a state.
template <class T>
struct OuterProducts {
  const Tile* chunks;
  int heads, heads_a_group;
  Heads<const T> x, z;
  OfTokens<const float> step;
  OfTokens<const Cum> cum;
  float* to;
  bool paired;
};
template <class T, Weight kind, int kHalves>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(kHalves == 1 ? 5 : 3)) outer_products(OuterProducts<T> in) {
  SharedMemory shared;
  T* const x = shared.take<T>(kTile * kStride);
  T* const z = shared.take<T>(kHalves * kTile * kStride);
  float* const weight = shared.take<float>(kTile);
  const Tile chunk = in.chunks[blockIdx.x / in.heads];
  const int h = static_cast<int>(blockIdx.x) % in.heads, group = h / in.heads_a_group;
  const int p = static_cast<int>(blockIdx.y) * kTile, n = static_cast<int>(blockIdx.z) * kTile * kHalves;
  const int width = in.x.width, size = in.z.width;
  RowSums sums[kHalves];
  clear(sums);
  for (int block = 0; block < chunk.blocks(); ++block) {
    const int first = block * kTile, tokens = at_most(kTile, chunk.length - first);
    __syncthreads();
    if (threadIdx.x < kTile)
      weight[threadIdx.x] = weight_of<kind>(in.cum.at(chunk, h), in.step.at(chunk, h), first + static_cast<int>(threadIdx.x), chunk.length);
    __syncthreads();
    load_tile(x, in.x.at(chunk, block, h) + p, in.x.token, tokens, width - p, in.x.packed, Weighted{weight});
    for (int half = 0; half < kHalves; ++half)
      load_tile(z + half * kTile * kStride, in.z.at(chunk, block, group) + n + half * kTile, in.z.token, tokens, size - n - half * kTile,
                in.z.packed);
    tiles_are_there();
    unrolled<kHalves>([&](int half) { add_transposed_product(sums[half], x, z + half * kTile * kStride, tokens); });
  }
  float* const to = in.to + (static_cast<int64_t>(blockIdx.x) * width + p) * size + n;
  unrolled<kHalves>([&](int half) { store_sums(to + half * kTile, size, sums[half], width - p, size - n - half * kTile, in.paired); });
}

// ---- y and dv

// Rows r of a head: to_r = sum_k w_rk x_k + skip x_r + exp(cum_r) S c_r + inside_r, with w_ij = scores_ij exp(cum_i - cum_j) dt_j for j <=
// i. Forward w itself, and y from v; backward its transpose, and dv from dy. What is null is left out.
template <class T, class Y>
struct WeightedSums {
  const Tile* blocks;
  int heads;
  HeadParts parts;
  Heads<const T> x, c;
  Heads<Y> to;
  const T* scores;
  const float* skip;
  OfTokens<const float> step;
  OfTokens<const Cum> cum;
  const float* states;
  bool states_packed;
  Heads<const float> inside;
};

// The factors of w in a tile: of a row and of a column where the tile lies off the diagonal, two exponentials at most 1 that meet at the
// first token of the later block; on it those of each pair.
struct Factors {
  Cum cum[kTile];  // of the columns
  float step[kTile], factor[kTile];
};

template <class T, class Y, bool kForward>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(4)) weighted_sums(WeightedSums<T, Y> in) {
  SharedMemory shared;
  T* const left = shared.take<T>(kTile * kStride);
  T* const right = shared.take<T>(kTile * kStride);
  Factors& of = *shared.take<Factors>(1);
  const Tile tile = in.blocks[blockIdx.x];
  const int rows = tile.rows(), first = tile.row * kTile, group = in.parts.group(), p = static_cast<int>(blockIdx.z) * kTile;
  const int width = in.x.width, size = in.c.width;
  for (int h = in.parts.first(); h < in.parts.last(); ++h) {
    const Cum* const cum = in.cum.at(tile, h);
    const float* const step = in.step.at(tile, h);
    RowSums sums;
    if (in.states) {
      const float* const state = in.states + (static_cast<int64_t>(tile.chunk) * in.heads + h) * width * size;
      for (int n = 0; n < size; n += kTile) {
        __syncthreads();
        load_tile(left, in.c.at(tile, tile.row, group) + n, in.c.token, rows, size - n, in.c.packed);
        load_state(right, state, width, size, p, n, in.states_packed);
        tiles_are_there();
        add_product_transposed(sums, left, right, at_most(kTile, size - n));
      }
      const float decay[2] = {weight_of<Weight::kSinceStart>(cum, step, first + row_of(0), tile.length),
                              weight_of<Weight::kSinceStart>(cum, step, first + row_of(2), tile.length)};
      for (int s = 0; s < kSlices; ++s)
        for (int i = 0; i < 4; ++i) sums[s].v[i] *= decay[i / 2];
    }
    Cum row_cum[2];
    float row_step[2];
    for (int i = 0; i < 2; ++i) {
      const int row = row_of(2 * i);
      row_cum[i] = row < rows ? cum[first + row] : Cum{};
      row_step[i] = row < rows ? step[first + row] : 0;
    }
    const int from = kForward ? 0 : tile.row, to = kForward ? tile.row + 1 : tile.blocks();
    for (int block = from; in.scores && block < to; ++block) {
      const int columns = at_most(kTile, tile.length - block * kTile);
      const bool diagonal = block == tile.row;
      const Cum meeting = cum[(kForward ? tile.row : block) * kTile];
      __syncthreads();
      if (threadIdx.x < kTile) {
        const int k = static_cast<int>(threadIdx.x), at = block * kTile + k;
        const bool inside = k < columns;
        of.cum[k] = inside ? cum[at] : Cum{};
        of.step[k] = inside ? step[at] : 0;
        of.factor[k] = !inside || diagonal ? 0 : kForward ? expf(meeting - cum[at]) * step[at] : expf(cum[at] - meeting);
      }
      load_tile(right, in.x.at(tile, block, h) + p, in.x.token, columns, width - p, in.x.packed);
      tiles_are_there();
      float row_factor[2];
      for (int i = 0; i < 2; ++i)
        row_factor[i] = diagonal || row_of(2 * i) >= rows ? 0
                        : kForward                        ? expf(row_cum[i] - meeting)
                                                          : expf(meeting - row_cum[i]) * row_step[i];
      const int64_t pair = (kForward ? tile.pair(tile.row, block) : tile.pair(block, tile.row)) * (gridDim.y / in.parts.parts) + group;
      // On the diagonal the warp's rows see what is before or after them only.
      const int begin = diagonal && !kForward ? warp_row() : 0, end = diagonal && kForward ? warp_row() + 16 : kTile;
      for (int k = begin; k < at_most(columns, end); k += 16) {
        Sums w[2];
        for (int half = 0; half < 2; ++half) {
          w[half] = load_scores(in.scores, pair, k / 8 + half);
          for (int i = 0; i < 4; ++i) {
            const int row = row_of(i), column = k + half * 8 + Sums::column(i);
            float& value = w[half].v[i];
            if (!diagonal)
              value *= row_factor[i / 2] * of.factor[column];
            else if (kForward)
              value = column <= row ? value * __expf(row_cum[i / 2] - of.cum[column]) * of.step[column] : 0;
            else
              value = row <= column && column < columns ? value * __expf(of.cum[column] - row_cum[i / 2]) * row_step[i / 2] : 0;
          }
        }
        const auto a = as_a<T>(w[0], w[1]);
        multiply_add(sums, a, right + k * kStride);
      }
      if (diagonal) {
        const float skip = in.skip[h];
        for_each_sum(sums, [&](float& sum, int row, int column) { sum += skip * static_cast<float>(right[row * kStride + column]); });
      }
    }
    if (in.inside.data) {
      const float* const inside = in.inside.at(tile, tile.row, h) + p;
      for_each_sum(sums, [&](float& sum, int row, int column) {
        if (row < rows && column < width - p) sum += inside[row * in.inside.token + column];
      });
    }
    Y* const out = in.to.at(tile, tile.row, h) + p;
    if constexpr (std::is_same_v<T, Y>) {
      // `left` holds nothing more that other warps read.
      for_each_sum(sums, [&](float sum, int row, int column) { left[row * kStride + column] = static_cast<T>(sum); });
      __syncwarp();
      store_rows(out, in.to.token, left, rows, width - p, in.to.packed);
      __syncwarp();
    } else {
      store_sums(out, in.to.token, sums, rows, width - p, in.to.packed);
    }
  }
}

}  // namespace ropewalk::cuda::ssd
