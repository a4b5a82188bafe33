#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/cross_entropy/logits.cuh"
#include "kernels/cuda/reduce.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

constexpr float kMinusInfinity = -__builtin_huge_valf();

// The softmax's sum of each token, as exp(offset) * sum, and its target's logit on the way.
struct OnlineSoftmax {
  struct State {
    float offset = kMinusInfinity, sum = 0;
  };
  const int64_t* target;
  int64_t first_row, rows;
  float *log_sum_exp, *target_logit;

  template <int n, class Row>
  __device__ void add(State& state, const float (&logits)[n], const Row& row, int token) const {
    const int64_t wanted = target[token] - first_row;
    float next = state.offset;
#pragma unroll
    for (int j = 0; j < n; ++j) {
      next = logits[j] > next ? logits[j] : next;
      if (row(j) == wanted && wanted < rows) target_logit[token] = logits[j];
    }
    const float offset = finite(next);
    float sum = state.sum * __expf(state.offset - offset);
#pragma unroll
    for (int j = 0; j < n; ++j) sum += __expf(logits[j] - offset);
    state = {next, sum};
  }
  __device__ static State join(const State& a, const State& b) {
    const float next = a.offset > b.offset ? a.offset : b.offset, offset = finite(next);
    return {next, a.sum * __expf(a.offset - offset) + b.sum * __expf(b.offset - offset)};
  }
  __device__ static State from_lane(const State& state, int lanes) {
    return {__shfl_xor_sync(kWholeWarp, state.offset, lanes), __shfl_xor_sync(kWholeWarp, state.sum, lanes)};
  }
  __device__ void finish(int token, const State& state) const { log_sum_exp[token] = state.offset + logf(state.sum); }

  // Where nothing is seen yet: -infinity less itself is not a number.
  __device__ static float finite(float offset) { return offset == kMinusInfinity ? 0 : offset; }
};

// ---- backward: blocks of kTokens scored tokens by kRows rows of weight, whose logit gradients stand in memory

constexpr int64_t kTokens = 4096, kRows = 8192;

// The scored tokens of a block; `token` and `count` are those of all.
struct TokenBlock {
  const int *token, *count;
  int64_t first;
  __device__ int64_t size() const {
    const int64_t left = *count - first;
    return left < 0 ? 0 : left < kTokens ? left : kTokens;
  }
  // The operand whose row i is that of the block's token i.
  template <class T>
  __device__ Operand<T> rows_of(Operand<T> x) const {
    x.rows = size();
    x.at = token + first;
    return x;
  }
};

// What the gradients of a token's logits are made of. `wanted` is the target's row in the block, -1 where it has none.
struct TokenGradients {
  const int64_t* target;
  const float *log_sum_exp, *d_log_sum_exp, *d_target_logit;
  int64_t first_row;  // of the block, in the whole vocabulary
  float scale;
};
struct OfToken {
  float log_sum_exp, d_log_sum_exp, d_target_logit;
  int wanted;
};
__device__ OfToken of_token(const TokenGradients& g, int token, int64_t rows) {
  const int64_t wanted = g.target[token] - g.first_row;
  return {.log_sum_exp = g.log_sum_exp[token],
          .d_log_sum_exp = g.scale * g.d_log_sum_exp[token],
          .d_target_logit = g.scale * g.d_target_logit[token],
          .wanted = wanted >= 0 && wanted < rows ? static_cast<int>(wanted) : -1};
}

// d_logits [kTokens, stride] in T; columns behind the last row of weight become zero.
template <class T, bool packed>
__global__ void __launch_bounds__(kHeadTile<T>.threads())
    logit_gradients(Operand<T> x, Operand<T> weight, TokenBlock block, TokenGradients gradients, T* d_logits, int64_t stride) {
  constexpr TileShape kTile = kHeadTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAlong, T, Terms::kAlong, packed>;
  x = block.rows_of(x);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTile.rows, first_row = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  if (first >= x.rows) return;
  SharedMemory shared;
  bfloat16* const room = shared.take<bfloat16>(Product::kShared);
  OfToken* const tokens = shared.take<OfToken>(kTile.rows);
  for (int64_t i = threadIdx.x; i < kTile.rows && first + i < x.rows; i += kTile.threads())
    tokens[i] = of_token(gradients, x.at[first + i], weight.rows);
  Product product;
  product.clear();
  product.add(x, weight, first, first_row, 0, x.width, room);
  __syncthreads();  // where there are no terms, too, tokens are there
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) {
    const int64_t at = first + Product::row(i);
    if (at >= x.rows) continue;
    const OfToken token = tokens[Product::row(i)];
#pragma unroll
    for (int j = 0; j < Product::kColumns; j += 2) {
      const int64_t column = first_row + Product::column(j);
      if (column >= stride) continue;
      Pack<T, 2> pair;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float d = __expf(gradients.scale * product.at(i, j + k) - token.log_sum_exp) * token.d_log_sum_exp;
        if (column + k == token.wanted) d += token.d_target_logit;
        pair.v[k] = static_cast<T>(column + k < weight.rows ? d : 0);
      }
      store_pack(d_logits + at * stride + column, pair);
    }
  }
}

// dx[token] = d_logits weight. Sums over several blocks of rows are kept in `sums` [kTokens, D] between the first and the last.
template <class T, bool packed>
__global__ void __launch_bounds__(kHeadTile<T>.threads())
    input_gradient(Operand<T> d_logits, Operand<T> weight, TokenBlock block, bool is_first, bool is_last, float* sums, Rows<T> dx) {
  constexpr TileShape kTile = kHeadTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAlong, T, Terms::kAcross, packed>;
  d_logits.rows = block.size();
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTile.rows, first_column = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  if (first >= d_logits.rows) return;
  SharedMemory shared;
  bfloat16* const room = shared.take<bfloat16>(Product::kShared);
  Product product;
  product.clear();
  product.add(d_logits, weight, first, first_column, 0, weight.rows, room);
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) {
    const int64_t at = first + Product::row(i);
    if (at >= d_logits.rows) continue;
    T* const to = dx[block.token[block.first + at]];
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t column = first_column + Product::column(j);
      if (column >= dx.width) continue;
      float sum = product.at(i, j);
      if (!is_first) sum += sums[at * dx.width + column];
      if (is_last)
        to[column] = static_cast<T>(sum);
      else
        sums[at * dx.width + column] = sum;
    }
  }
}

// dweight += d_logits^T x
template <class T, bool packed>
__global__ void __launch_bounds__(kHeadTile<T>.threads())
    add_weight_gradient(Operand<T> d_logits, Operand<T> x, TokenBlock block, Rows<float> dweight) {
  constexpr TileShape kTile = kHeadTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAcross, T, Terms::kAcross, packed>;
  x = block.rows_of(x);
  d_logits.rows = x.rows;
  if (x.rows == 0) return;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTile.rows, first_column = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  SharedMemory shared;
  bfloat16* const room = shared.take<bfloat16>(Product::kShared);
  Product product;
  product.clear();
  product.add(d_logits, x, first, first_column, 0, x.rows, room);
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) {
    const int64_t row = first + Product::row(i);
    if (row >= dweight.count) continue;
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t column = first_column + Product::column(j);
      if (column < dweight.width) dweight[row][column] += product.at(i, j);
    }
  }
}

template <class Product>
Grid tiles_of(int64_t rows, int64_t columns, const TileShape& tile, size_t more_shared = 0) {
  return {.blocks = dim3(static_cast<unsigned>(ceil_div(columns, tile.columns)), static_cast<unsigned>(ceil_div(rows, tile.rows))),
          .threads = dim3(tile.threads()),
          .shared = shared_bytes<bfloat16>(Product::kShared) + more_shared};
}

template <class T, bool packed>
void backward(const HeadScoresBackward& args) {
  constexpr TileShape kTile = kHeadTile<T>;
  constexpr Terms kAlong = Terms::kAlong, kAcross = Terms::kAcross;
  const int64_t tokens = args.target.numel(), vocabulary = args.weight.dim(0), width = args.x.dim(-1);
  const Scored scored = scored_tokens(args.target);
  const Operand<T> x = operand_of<T>(args.x, "head_scores: x");
  const int64_t block_tokens = std::min(tokens, kTokens), stride = ceil_div(std::min(vocabulary, kRows), 8) * 8;
  const Tensor d_logits = Tensor::empty({block_tokens, stride}, args.x.dtype(), Cuda{});
  const Tensor sums = args.dx && vocabulary > kRows ? Tensor::empty({block_tokens, width}, DType::kFloat32, Cuda{}) : Tensor();
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const TokenBlock block{.token = scored.token.data<int>(), .count = scored.count.data<int>(), .first = first};
    const int64_t size = std::min(kTokens, tokens - first);
    for (int64_t first_row = 0; first_row < vocabulary; first_row += kRows) {
      const int64_t rows = std::min(kRows, vocabulary - first_row), used = ceil_div(rows, 8) * 8;
      const Tensor weight_rows = args.weight.narrow(0, first_row, rows);
      const Operand<T> weight{
          .data = weight_rows.data<T>(), .stride = row_stride(weight_rows, "head_scores: weight"), .rows = rows, .width = width};
      const TokenGradients gradients{.target = args.target.data<int64_t>(),
                                     .log_sum_exp = args.log_sum_exp.data<float>(),
                                     .d_log_sum_exp = args.d_log_sum_exp.data<float>(),
                                     .d_target_logit = args.d_target_logit.data<float>(),
                                     .first_row = args.first_row + first_row,
                                     .scale = static_cast<float>(args.logit_scale)};
      run(logit_gradients<T, packed>,
          tiles_of<TileProduct<kTile, T, kAlong, T, kAlong, packed>>(size, used, kTile, shared_bytes<OfToken>(kTile.rows)), x, weight,
          block, gradients, d_logits.data<T>(), stride);
      const Operand<T> gradient{.data = d_logits.data<T>(), .stride = stride, .rows = 0, .width = used};
      if (args.dx)
        run(input_gradient<T, packed>, tiles_of<TileProduct<kTile, T, kAlong, T, kAcross, packed>>(size, width, kTile), gradient, weight,
            block, first_row == 0, first_row + kRows >= vocabulary, sums ? sums.data<float>() : nullptr, rows_of<T>(args.dx));
      if (args.dweight)
        run(add_weight_gradient<T, packed>, tiles_of<TileProduct<kTile, T, kAcross, T, kAcross, packed>>(rows, width, kTile), gradient, x,
            block, rows_of<float>(args.dweight.narrow(0, first_row, rows)));
    }
  }
}

// ---- the loss

// One block.
__global__ void sum_losses(int64_t tokens, const float* log_sum_exp, const float* target_logit, const int64_t* target, double* loss) {
  SharedMemory shared;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < tokens; i += blockDim.x)
    if (target[i] != kIgnored) sum += static_cast<double>(log_sum_exp[i]) - static_cast<double>(target_logit[i]);
  sum = block_total(sum, shared.take<double>(blockDim.x));
  if (threadIdx.x == 0) *loss = sum;
}

__global__ void give_losses(int64_t tokens, const double* d_loss, const int64_t* target, float* d_log_sum_exp, float* d_target_logit) {
  const float d = static_cast<float>(*d_loss);
  for_each_item(tokens, [&](int64_t i) {
    const bool scored = target[i] != kIgnored;
    d_log_sum_exp[i] = scored ? d : 0;
    d_target_logit[i] = scored ? -d : 0;
  });
}

}  // namespace

void launch(Cuda, const HeadScoresForward& args) {
  args.log_sum_exp.fill(0);
  args.target_logit.fill(0);
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) {
    pass_over_logits<T>(args.x, args.weight, scored_tokens(args.target), args.logit_scale,
                        OnlineSoftmax{.target = args.target.data<int64_t>(),
                                      .first_row = args.first_row,
                                      .rows = args.weight.dim(0),
                                      .log_sum_exp = args.log_sum_exp.data<float>(),
                                      .target_logit = args.target_logit.data<float>()});
  });
}

void launch(Cuda, const HeadScoresBackward& args) {
  if (args.dx) args.dx.fill(0);  // what ignored tokens keep
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) {
    const bool packed = in_packs(operand_of<T>(args.x, "head_scores: x")) && in_packs(operand_of<T>(args.weight, "head_scores: weight"));
    packed ? backward<T, true>(args) : backward<T, false>(args);
  });
}

void launch(Cuda, const CrossEntropyForward& args) {
  constexpr int kThreads = 1024;
  run(sum_losses, {.blocks = dim3(1), .threads = dim3(kThreads), .shared = shared_bytes<double>(kThreads)}, args.target.numel(),
      args.log_sum_exp.data<float>(), args.target_logit.data<float>(), args.target.data<int64_t>(), args.loss.data<double>());
}

void launch(Cuda, const CrossEntropyBackward& args) {
  run(give_losses, grid_for(args.target.numel()), args.target.numel(), args.d_loss.data<double>(), args.target.data<int64_t>(),
      args.d_log_sum_exp.data<float>(), args.d_target_logit.data<float>());
}

}  // namespace ropewalk
