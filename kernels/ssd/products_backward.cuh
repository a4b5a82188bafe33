// The way back through the products of SSD, as far as they are not such products themselves.
#pragma once

#include "kernels/ssd/products.cuh"

namespace ropewalk::cuda::ssd {

// ---- the way back through states

// Through products with a state S [P, N] of each head: with e_r = S z_r and weights w_r,
//   dx_r = w_r e_r,   dot_r = <x_r, e_r>,   dz_r = sum over the heads of w_r S^T x_r.
// Of local: x = v, z = b, S = d_local, w = kUntilEnd. Of h0: x = dy, z = c, S = h0, w = kSinceStart, and no dx.
// A block has kHalves * kTile columns of dz; those of the first columns also find dx and dot.
template <class T, class Out>
struct StateBackward {
  const Tile* blocks;
  int heads;
  HeadParts parts;
  Heads<const T> x, z;
  OfTokens<const float> step;
  OfTokens<const Cum> cum;
  const float* states;
  bool states_packed;
  Heads<T> dx;  // null: not wanted
  OfTokens<float> dot;
  Heads<Out> dz;
  int64_t dz_part;  // elements: each part of a group's heads leaves its own
};
// Tiles side by side that a block has; where there are more, its last tile is for those that it only reads.
constexpr int kMostHalves = 4;
template <int kHalves>
__device__ __host__ constexpr int z_tiles(int size) {
  return size > kHalves * kTile ? kHalves + 1 : kHalves;
}
template <class T, class Out, Weight kind, int kHalves>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(kHalves == kMostHalves ? 2 : 3)) state_backward(StateBackward<T, Out> in) {
  SharedMemory shared;
  const int size = in.z.width, width = in.x.width, own = kHalves < kMostHalves ? 0 : static_cast<int>(blockIdx.z) * kHalves * kTile;
  T* const x = shared.take<T>(kTile * kStride);
  T* const state = shared.take<T>(kTile * kStride);
  T* const z = shared.take<T>(z_tiles<kHalves>(size) * kTile * kStride);
  const Tile tile = in.blocks[blockIdx.x];
  const int rows = tile.rows(), group = in.parts.group();
  const bool finds_dx = own == 0;
  const T* const of_z = in.z.at(tile, tile.row, group);
  T* const other = z + kHalves * kTile * kStride;
  for (int half = 0; half < kHalves; ++half)
    load_tile(z + half * kTile * kStride, of_z + own + half * kTile, in.z.token, rows, size - own - half * kTile, in.z.packed);
  RowSums dz[kHalves];
  clear(dz);
  for (int h = in.parts.first(); h < in.parts.last(); ++h) {
    const Cum* const cum = in.cum.at(tile, h);
    const float* const step = in.step.at(tile, h);
    const float* const of_state = in.states + (static_cast<int64_t>(tile.chunk) * in.heads + h) * width * size;
    float weight[2], dot[2] = {};
    for (int i = 0; i < 2; ++i) weight[i] = weight_of<kind>(cum, step, tile.row * kTile + row_of(2 * i), tile.length);
    for (int p = 0; p < width; p += kTile) {
      RowSums e;
      unrolled<kHalves>([&](int half) {
        const int n = own + half * kTile;
        __syncthreads();
        if (half == 0) load_tile(x, in.x.at(tile, tile.row, h) + p, in.x.token, rows, width - p, in.x.packed);
        load_state(state, of_state, width, size, p, n, in.states_packed);
        tiles_are_there();
        if (finds_dx) add_product_transposed(e, z + half * kTile * kStride, state, at_most(kTile, size - n));
        for (int k = 0; k < at_most(kTile, width - p); k += 16) {
          Sums weighted[2];
          for (int j = 0; j < 2; ++j)
            for (int i = 0; i < 4; ++i)
              weighted[j].v[i] = weight[i / 2] * static_cast<float>(x[row_of(i) * kStride + k + j * 8 + Sums::column(i)]);
          const auto a = as_a<T>(weighted[0], weighted[1]);
          multiply_add(dz[half], a, state + k * kStride);
        }
      });
      for (int n = kHalves * kTile; kHalves == kMostHalves && finds_dx && n < size; n += kTile) {
        __syncthreads();
        load_tile(other, of_z + n, in.z.token, rows, size - n, in.z.packed);
        load_state(state, of_state, width, size, p, n, in.states_packed);
        tiles_are_there();
        add_product_transposed(e, other, state, at_most(kTile, size - n));
      }
      if (!finds_dx) continue;
      for (int s = 0; s < kSlices; ++s)
        for (int i = 0; i < 4; ++i) {
          T& there = x[row_of(i) * kStride + column_of(s, i)];
          dot[i / 2] += static_cast<float>(there) * e[s].v[i];
          there = static_cast<T>(weight[i / 2] * e[s].v[i]);
        }
      __syncwarp();
      if (in.dx.data) store_rows(in.dx.at(tile, tile.row, h) + p, in.dx.token, x, rows, width - p, in.dx.packed);
    }
    if (!finds_dx) continue;
    for (int i = 0; i < 2; ++i) {
      const float sum = warp_sum(dot[i], 4);
      if (threadIdx.x % 4 == 0 && row_of(2 * i) < rows) in.dot.at(tile, h)[tile.row * kTile + row_of(2 * i)] = sum;
    }
  }
  Out* const to = in.dz.at(tile, tile.row, group) + in.parts.part() * in.dz_part;
  unrolled<kHalves>([&](int half) {
    const int n = own + half * kTile;
    store_sums(to + n, in.dz.token, dz[half], rows, size - n, in.dz.packed);
  });
}

// ---- the way back through pairs of tokens

// x[i] over the lanes that hold the same columns, whose sums are left in x[0] and x[1], of slice lane / 4.
template <int n = kSlices>
__device__ void sum_columns(float (&x)[2 * kSlices]) {
  constexpr int kLanes = n / 2;
  const bool upper = static_cast<int>(threadIdx.x) % kWarp / 4 & kLanes;
  for (int i = 0; i < n; ++i) {
    const float keep = upper ? x[i + n] : x[i], give = upper ? x[i] : x[i + n];
    x[i] = keep + __shfl_xor_sync(kWholeWarp, give, kLanes * 4);
  }
  if constexpr (kLanes > 1) sum_columns<kLanes>(x);
}

// Of d_m_ij = <dy_i, v_j>: d_scores [parts][pairs, groups, kTile, kTile], the sums over a part of a group's heads of d_m_ij exp(cum_i -
// cum_j) dt_j; what steps and decays are owed; what the skip is.
template <class T>
struct PairsBackward {
  const Tile* pairs;
  int heads;
  HeadParts parts;
  Heads<const T> v, dy;
  OfTokens<const float> step;
  OfTokens<const Cum> cum;
  const T* scores;
  float* d_scores;
  PairSums* sums;
  OfTokens<float> d_skip;
};
template <class T>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(3)) pairs_backward(PairsBackward<T> in) {
  SharedMemory shared;
  T* const dy = shared.take<T>(kTile * kStride);
  T* const v = shared.take<T>(kTile * kStride);
  Factors& of = *shared.take<Factors>(1);
  float* const of_columns = shared.take<float>(kThreads / kWarp * kTile);
  constexpr int kWide = kTile + 1;
  float* const u = shared.take<float>(kTile * kWide);  // on the diagonal
  const Tile tile = in.pairs[blockIdx.x];
  const int rows = tile.rows(), columns = tile.columns(), group = in.parts.group(), width = in.v.width;
  const int64_t groups = gridDim.y / in.parts.parts, pair = tile.pair(tile.row, tile.column);
  const bool diagonal = tile.row == tile.column;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  RowSums scores, d_scores;
  for (int s = 0; s < kSlices; ++s) scores[s] = load_scores(in.scores, pair * groups + group, s);
  for (int h = in.parts.first(); h < in.parts.last(); ++h) {
    const Cum* const cum = in.cum.at(tile, h);
    const float* const step = in.step.at(tile, h);
    const Cum meeting = cum[tile.row * kTile];
    RowSums d_m;
    for (int p = 0; p < width; p += kTile) {
      __syncthreads();
      load_tile(dy, in.dy.at(tile, tile.row, h) + p, in.dy.token, rows, width - p, in.dy.packed);
      load_tile(v, in.v.at(tile, tile.column, h) + p, in.v.token, columns, width - p, in.v.packed);
      tiles_are_there();
      add_product_transposed(d_m, dy, v, at_most(kTile, width - p));
    }
    __syncthreads();
    if (thread < kTile) {
      const int at = tile.column * kTile + thread;
      const bool inside = thread < columns;
      of.cum[thread] = inside ? cum[at] : Cum{};
      of.step[thread] = inside ? step[at] : 0;
      of.factor[thread] = inside && !diagonal ? expf(meeting - cum[at]) : 0;
    }
    Cum row_cum[2];
    float row_factor[2], row_sum[2] = {}, column_sum[2 * kSlices] = {};
    for (int i = 0; i < 2; ++i) {
      const int row = row_of(2 * i);
      row_cum[i] = row < rows ? cum[tile.row * kTile + row] : Cum{};
      row_factor[i] = row < rows && !diagonal ? expf(row_cum[i] - meeting) : 0;
    }
    __syncthreads();
    for (int s = 0; s < kSlices; ++s)
      for (int i = 0; i < 4; ++i) {
        const int row = row_of(i), column = column_of(s, i);
        float decay = row_factor[i / 2] * of.factor[column];
        if (diagonal) decay = column <= row && row < rows ? __expf(row_cum[i / 2] - of.cum[column]) : 0;
        const float weighted = d_m[s].v[i] * decay, owed = weighted * scores[s].v[i];
        d_scores[s].v[i] += weighted * of.step[column];
        column_sum[s * 2 + i % 2] += owed;
        row_sum[i / 2] += owed * of.step[column];
        if (diagonal) u[row * kWide + column] = owed;
        if (diagonal && row == column && row < rows) in.d_skip.at(tile, h)[tile.row * kTile + row] = d_m[s].v[i];
      }
    PairSums& sums = in.sums[pair * in.heads + h];
    if (!diagonal) {
      for (int i = 0; i < 2; ++i) {
        const float sum = warp_sum(row_sum[i], 4);
        if (lane % 4 == 0) sums.rows[row_of(2 * i)] = sum;
      }
      sum_columns(column_sum);
      for (int i = 0; i < 2; ++i) of_columns[warp * kTile + lane / 4 * 8 + lane % 4 * 2 + i] = column_sum[i];
      __syncthreads();
      if (thread < kTile) {
        float sum = 0;
        for (int w = 0; w < kThreads / kWarp; ++w) sum += of_columns[w * kTile + thread];
        sums.columns[thread] = sum;
      }
    } else {
      // Sums over the rows from t on, each column in two halves of its rows; then those of the columns before t.
      constexpr int kHalf = kTile / 2;
      const int at = thread % kTile, half = thread / kTile;
      __syncthreads();
      float sum = 0;
      for (int row = half * kHalf + kHalf - 1; row >= half * kHalf; --row) u[row * kWide + at] = sum += u[row * kWide + at];
      __syncthreads();
      const float* const upper = u + kHalf * kWide;  // row 32: the sums over the second half
      if (half == 0) sums.columns[at] = u[at] + upper[at];
      float before = 0;
      for (int column = half * kHalf; column < half * kHalf + kHalf; ++column) {
        const float from_row = u[at * kWide + column] + (at < kHalf ? upper[column] : 0);
        before += column < at ? from_row * of.step[column] : 0;
      }
      of_columns[half * kTile + at] = before;
      __syncthreads();
      if (half == 0) sums.rows[at] = of_columns[at] + of_columns[kTile + at];
    }
  }
  const int64_t tiles = gridDim.x * groups;
  float* const to = in.d_scores + (in.parts.part() * tiles + pair * groups + group) * kTile * kTile;
  store_sums(to, kTile, d_scores, kTile, kTile, true);
}

// Rows of db and dc: db_j = sum_i d_scores_ij c_i, dc_i = sum_j d_scores_ij b_j, in one tile of columns; and what other kernels left in
// parts.
template <class T>
struct ScoresBackward {
  const Tile* blocks;
  const float* d_scores;  // or null
  int64_t pairs;          // all
  int d_score_parts;
  Heads<const T> x;  // the other operand of the scores
  Heads<const float> more;
  int64_t more_part;  // elements
  int more_parts;
  Heads<T> to;
};
template <class T, bool transposed>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T>(4)) scores_backward(ScoresBackward<T> in) {
  SharedMemory shared;
  T* const d_scores = shared.take<T>(kTile * kStride);
  T* const x = shared.take<T>(kTile * kStride);
  const Tile tile = in.blocks[blockIdx.x];
  const int group = static_cast<int>(blockIdx.y), n = static_cast<int>(blockIdx.z) * kTile, rows = tile.rows(), size = in.to.width;
  RowSums sums;
  const int from = transposed ? tile.row : 0, to = transposed ? tile.blocks() : tile.row + 1;
  for (int block = from; in.d_scores && block < to; ++block) {
    const int tokens = at_most(kTile, tile.length - block * kTile);
    const int64_t at = ((transposed ? tile.pair(block, tile.row) : tile.pair(tile.row, block)) * gridDim.y + group) * kTile * kTile;
    __syncthreads();
    for (int item = static_cast<int>(threadIdx.x) * 4; item < kTile * kTile; item += kThreads * 4) {
      Pack<float, 4> sum{};
      for (int part = 0; part < in.d_score_parts; ++part) {
        const auto more = load_pack<4>(in.d_scores + part * in.pairs * gridDim.y * kTile * kTile + at + item);
        for (int k = 0; k < 4; ++k) sum.v[k] += more.v[k];
      }
      for (int k = 0; k < 4; ++k) d_scores[item / kTile * kStride + item % kTile + k] = static_cast<T>(sum.v[k]);
    }
    load_tile(x, in.x.at(tile, block, group) + n, in.x.token, tokens, size - n, in.x.packed);
    tiles_are_there();
    if constexpr (transposed)
      add_transposed_product(sums, d_scores, x, tokens);
    else
      add_product(sums, d_scores, x, tokens);
  }
  for (int part = 0; part < in.more_parts; ++part) {
    const float* const more = in.more.at(tile, tile.row, group) + part * in.more_part + n;
    for_each_sum(sums, [&](float& sum, int row, int column) {
      if (row < rows && column < size - n) sum += more[row * in.more.token + column];
    });
  }
  store_sums(in.to.at(tile, tile.row, group) + n, in.to.token, sums, rows, size - n, in.to.packed);
}

}  // namespace ropewalk::cuda::ssd
