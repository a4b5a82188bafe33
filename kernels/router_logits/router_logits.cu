#include <algorithm>

#include "kernels/cuda/product.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/warps.cuh"
#include "kernels/router_logits/router_logits.h"

namespace ropewalk {
namespace {

using namespace cuda;

// With few experts there are few tiles: long sums are cut into parts, so that blocks enough are at work. Their number follows from the
// shape alone.
int64_t parts_of_sum(int64_t tiles, int64_t terms, int64_t least_terms) {
  constexpr int64_t kBlocks = 132 * 4;
  return std::clamp<int64_t>(kBlocks / std::max<int64_t>(1, tiles), 1, std::max<int64_t>(1, terms / least_terms));
}

// Part `part` of `parts` of n terms, in whole slices.
struct TermRange {
  int64_t begin, end;
};
__device__ TermRange term_range(int64_t terms, int depth, unsigned part, unsigned parts) {
  const int64_t slices = ceil_div(terms, depth);
  return {slices * part / parts * depth, slices * (part + 1) / parts * depth};
}

constexpr TileShape kTile{.rows = 64, .columns = 64, .depth = 32, .warps_down = 2, .warps_across = 2};

// Parts of x weight^T, [parts, tokens, E]; the first has the bias.
template <class T, bool packed>
__global__ void __launch_bounds__(kTile.threads()) logit_parts(Operand<T> x, Operand<float> weight, const float* bias, float* part) {
  using Product = TileProduct<kTile, T, Terms::kAlong, float, Terms::kAlong, packed>;
  SharedMemory shared;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTile.rows, first_expert = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  const TermRange terms = term_range(x.width, kTile.depth, blockIdx.z, gridDim.z);
  Product product;
  product.clear();
  product.add(x, weight, first, first_expert, terms.begin, terms.end, shared.take<bfloat16>(Product::kShared));
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t t = first + Product::row(i), e = first_expert + Product::column(j);
      if (t < x.rows && e < weight.rows)
        part[(blockIdx.z * x.rows + t) * weight.rows + e] = product.at(i, j) + (bias && blockIdx.z == 0 ? bias[e] : 0);
    }
}

__global__ void add_up(int64_t parts, int64_t n, const float* part, float* y) {
  for_each_item(n, [&](int64_t i) {
    float sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += part[p * n + i];
    y[i] = sum;
  });
}

template <class T>
void forward(const RouterLogitsForward& args) {
  const int64_t experts = args.weight.dim(0), tokens = args.y.numel() / experts;
  Operand<T> x = operand_of<T>(args.x, "router_logits: x");
  x.rows = tokens;
  Operand<float> weight = operand_of<float>(args.weight, "router_logits: weight");
  weight.rows = experts;
  const int64_t token_tiles = ceil_div(tokens, kTile.rows), expert_tiles = ceil_div(experts, kTile.columns);
  constexpr int64_t kLeastTerms = 512;
  const int64_t parts = parts_of_sum(token_tiles * expert_tiles, x.width, kLeastTerms);
  const Tensor part = parts == 1 ? args.y : Tensor::empty({parts, tokens, experts}, DType::kFloat32, Cuda{});
  const Grid grid{.blocks = dim3(static_cast<unsigned>(expert_tiles), static_cast<unsigned>(token_tiles), static_cast<unsigned>(parts)),
                  .threads = dim3(kTile.threads()),
                  .shared = shared_bytes<bfloat16>(TileProduct<kTile, T, Terms::kAlong, float, Terms::kAlong, true>::kShared)};
  run(in_packs(x) && in_packs(weight) ? logit_parts<T, true> : logit_parts<T, false>, grid, x, weight,
      args.bias ? args.bias.data<float>() : nullptr, part.data<float>());
  if (parts > 1) run(add_up, grid_for(args.y.numel()), parts, args.y.numel(), part.data<float>(), args.y.data<float>());
}

// ---- dx = dy weight

constexpr TileShape kInputTile{.rows = 128, .columns = 128, .depth = 16, .warps_down = 4, .warps_across = 2};
template <class T, bool packed>
using InputProduct = TileProduct<kInputTile, float, Terms::kAlong, float, Terms::kAcross, packed, std::is_same_v<T, bfloat16> ? 2 : 3>;

template <class T, bool packed>
__global__ void __launch_bounds__(kInputTile.threads()) input_gradient(Operand<float> dy, Operand<float> weight, Rows<T> dx) {
  using Product = InputProduct<T, packed>;
  SharedMemory shared;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kInputTile.rows,
                first_column = static_cast<int64_t>(blockIdx.x) * kInputTile.columns;
  Product product;
  product.clear();
  product.add(dy, weight, first, first_column, 0, dy.width, shared.take<bfloat16>(Product::kShared));
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t t = first + Product::row(i), column = first_column + Product::column(j);
      if (t < dx.count && column < dx.width) dx[t][column] = static_cast<T>(product.at(i, j));
    }
}

template <class T>
void backward_input(const RouterLogitsBackwardInput& args) {
  const Operand<float> dy = operand_of<float>(args.dy, "router_logits: dy"),
                       weight = operand_of<float>(args.weight, "router_logits: weight");
  const Rows<T> dx = rows_of<T>(args.dx);
  const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(dx.width, kInputTile.columns)),
                                 static_cast<unsigned>(ceil_div(dx.count, kInputTile.rows))),
                  .threads = dim3(kInputTile.threads()),
                  .shared = shared_bytes<bfloat16>(InputProduct<T, true>::kShared)};
  run(in_packs(dy) && in_packs(weight) ? input_gradient<T, true> : input_gradient<T, false>, grid, dy, weight, dx);
}

// ---- dweight += dy^T x, dbias += sum of dy

// [parts, E, D]
template <class T, bool packed>
__global__ void __launch_bounds__(kTile.threads()) weight_gradient_parts(Operand<float> dy, Operand<T> x, float* part) {
  using Product = TileProduct<kTile, float, Terms::kAcross, T, Terms::kAcross, packed>;
  SharedMemory shared;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTile.rows, first_column = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  const TermRange terms = term_range(x.rows, kTile.depth, blockIdx.z, gridDim.z);
  Product product;
  product.clear();
  product.add(dy, x, first, first_column, terms.begin, terms.end, shared.take<bfloat16>(Product::kShared));
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t e = first + Product::row(i), column = first_column + Product::column(j);
      if (e < dy.width && column < x.width) part[(blockIdx.z * dy.width + e) * x.width + column] = product.at(i, j);
    }
}

template <class T>
void add_dweight(const RouterLogitsBackwardWeight& args) {
  const Operand<float> dy = operand_of<float>(args.dy, "router_logits: dy");
  const Operand<T> x = operand_of<T>(args.x, "router_logits: x");
  const int64_t expert_tiles = ceil_div(dy.width, kTile.rows), column_tiles = ceil_div(x.width, kTile.columns);
  constexpr int64_t kLeastTerms = 512;
  const int64_t parts = parts_of_sum(expert_tiles * column_tiles, x.rows, kLeastTerms);
  const Tensor part = Tensor::empty({parts, dy.width, x.width}, DType::kFloat32, Cuda{});
  const Grid grid{.blocks = dim3(static_cast<unsigned>(column_tiles), static_cast<unsigned>(expert_tiles), static_cast<unsigned>(parts)),
                  .threads = dim3(kTile.threads()),
                  .shared = shared_bytes<bfloat16>(TileProduct<kTile, float, Terms::kAcross, T, Terms::kAcross, true>::kShared)};
  run(in_packs(dy) && in_packs(x) ? weight_gradient_parts<T, true> : weight_gradient_parts<T, false>, grid, dy, x, part.data<float>());
  add_parts(part, args.dweight);
}

// [blocks, E]
__global__ void bias_gradient_parts(int64_t tokens, int64_t experts, const float* dy, float* part) {
  SharedMemory shared;
  const int64_t warps = blockDim.x / kWarp;
  float* const sums = shared.take<float>(static_cast<size_t>(experts * warps));
  float* const own = sums + threadIdx.x / kWarp * experts;
  for_each_of_lane(experts, [&](int e) { own[e] = 0; });
  for_each_row_of_warp(tokens, [&](int64_t t) { for_each_of_lane(experts, [&](int e) { own[e] += dy[t * experts + e]; }); });
  __syncthreads();
  for (int64_t e = threadIdx.x; e < experts; e += blockDim.x) {
    float sum = 0;
    for (int64_t w = 0; w < warps; ++w) sum += sums[w * experts + e];
    part[blockIdx.x * experts + e] = sum;
  }
}

void add_dbias(const Tensor& dbias, const Tensor& dy) {
  const int64_t experts = dbias.numel(), tokens = dy.numel() / experts;
  const Grid grid = warps_over(tokens, experts, 0, kMostParts);
  const Tensor part = Tensor::empty({static_cast<int64_t>(grid.blocks.x), experts}, DType::kFloat32, Cuda{});
  run(bias_gradient_parts, grid, tokens, experts, dy.data<float>(), part.data<float>());
  add_parts(part, dbias);
}

}  // namespace

void launch(Cuda, const RouterLogitsForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) { forward<T>(args); });
}

void launch(Cuda, const RouterLogitsBackwardInput& args) {
  if (args.dx.numel() == 0) return;
  dispatch_narrow(args.dx.dtype(), [&]<class T>(std::type_identity<T>) { backward_input<T>(args); });
}

void launch(Cuda, const RouterLogitsBackwardWeight& args) {
  if (args.dy.numel() == 0) return;
  if (args.dweight && args.dweight.numel() > 0)
    dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) { add_dweight<T>(args); });
  if (args.dbias) add_dbias(args.dbias, args.dy);
}

}  // namespace ropewalk
