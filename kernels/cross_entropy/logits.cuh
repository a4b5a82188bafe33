// One pass over the logits x weight^T of the scored tokens, which never stand in memory: a block makes a tile of them after the other, and
// a Pass says what comes of those it sees. It has
//   State                        of one token: nothing seen yet when made
//   add(state, logits, row, token)   after n more logits, those of the rows of weight row(0), row(1), ..; -infinity where row is not one
//   join(a, b)                   of two states of a token; from_lane(state, lanes): that of the lane `lanes` (xor) away
//   finish(token, state)         when all is seen
#pragma once

#include <algorithm>

#include "kernels/cross_entropy/scored.cuh"
#include "kernels/cuda/product.cuh"

namespace ropewalk::cuda {

// Blocks: parts of the vocabulary by tiles of tokens. parts [P, tokens].
template <class T, bool packed, class Pass>
__global__ void __launch_bounds__(kLargeTile<T>.threads())
    see_logits(Operand<T> x, Operand<T> weight, const int* count, float scale, Pass pass, int64_t tokens, typename Pass::State* parts) {
  constexpr TileShape kTile = kLargeTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAlong, T, Terms::kAlong, packed>;
  using State = typename Pass::State;
  x.rows = *count;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTile.rows;
  if (first >= x.rows) return;
  SharedMemory shared;
  bfloat16* const room = shared.take<bfloat16>(Product::kShared);
  State* const of_thread = shared.take<State>(Product::kRows * kTile.threads()) + threadIdx.x;
  State* const of_rows = shared.take<State>(kTile.rows * kTile.warps_across);
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) of_thread[i * kTile.threads()] = State{};

  const int64_t tiles = ceil_div(weight.rows, kTile.columns);
  const int64_t begin = tiles * blockIdx.x / gridDim.x * kTile.columns, end = tiles * (blockIdx.x + 1) / gridDim.x * kTile.columns;
  for (int64_t row = begin; row < end; row += kTile.columns) {
    Product product;
    product.clear();
    product.add(x, weight, first, row, 0, x.width, room);
#pragma unroll
    for (int i = 0; i < Product::kRows; ++i) {
      const int64_t at = first + Product::row(i);
      if (at >= x.rows) continue;
      float logits[Product::kColumns];
#pragma unroll
      for (int j = 0; j < Product::kColumns; ++j)
        logits[j] = row + Product::column(j) < weight.rows ? scale * product.at(i, j) : -__builtin_huge_valf();
      pass.add(
          of_thread[i * kTile.threads()], logits, [=](int j) { return row + Product::column(j); }, x.at[at]);
    }
  }

  const int lane = threadIdx.x % kWarp, across = threadIdx.x / kWarp % kTile.warps_across;
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) {
    State state = of_thread[i * kTile.threads()];
    for (int lanes = 1; lanes < 4; lanes *= 2) state = pass.join(state, pass.from_lane(state, lanes));
    if (lane % 4 == 0) of_rows[across * kTile.rows + Product::row(i)] = state;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < kTile.rows && first + i < x.rows; i += kTile.threads()) {
    State state{};
    for (int w = 0; w < kTile.warps_across; ++w) state = pass.join(state, of_rows[w * kTile.rows + i]);
    parts[blockIdx.x * tokens + first + i] = state;
  }
}

template <class Pass>
__global__ void join_parts(Pass pass, const int* token, const int* count, int64_t tokens, int64_t parts, const typename Pass::State* part) {
  for_each_item(*count, [&](int64_t i) {
    typename Pass::State state{};
    for (int64_t p = 0; p < parts; ++p) state = pass.join(state, part[p * tokens + i]);
    pass.finish(token[i], state);
  });
}

template <class T, class Pass>
void pass_over_logits(const Tensor& x, const Tensor& weight, const Scored& scored, double scale, const Pass& pass) {
  constexpr TileShape kTile = kLargeTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAlong, T, Terms::kAlong, true>;
  using State = typename Pass::State;
  const int64_t tokens = scored.token.numel();
  Operand<T> from = operand_of<T>(x, "head: x");
  const Operand<T> rows = {
      .data = weight.data<T>(), .stride = row_stride(weight, "head: weight"), .rows = weight.dim(0), .width = x.dim(-1)};
  from.at = scored.token.data<int>();
  // So many parts that a wave of blocks is about as high as wide, and the GPU is full.
  constexpr int64_t kAtOnce = 132, kParts = 32;
  const int64_t token_tiles = ceil_div(tokens, kTile.rows), row_tiles = ceil_div(rows.rows, kTile.columns);
  const int64_t parts = std::min(row_tiles, std::max(kParts, ceil_div(2 * kAtOnce, std::max<int64_t>(1, token_tiles))));
  const Tensor room = Tensor::empty({parts * tokens * static_cast<int64_t>(sizeof(State))}, DType::kUInt8, Cuda{});
  State* const part = static_cast<State*>(room.raw());
  const Grid grid{.blocks = dim3(static_cast<unsigned>(parts), static_cast<unsigned>(token_tiles)),
                  .threads = dim3(kTile.threads()),
                  .shared = shared_bytes<bfloat16>(Product::kShared) + shared_bytes<State>(Product::kRows * kTile.threads()) +
                            shared_bytes<State>(kTile.rows * kTile.warps_across)};
  run(in_packs(from) && in_packs(rows) ? see_logits<T, true, Pass> : see_logits<T, false, Pass>, grid, from, rows, scored.count.data<int>(),
      static_cast<float>(scale), pass, tokens, part);
  run(join_parts<Pass>, grid_for(tokens), pass, scored.token.data<int>(), scored.count.data<int>(), tokens, parts, part);
}

}  // namespace ropewalk::cuda
