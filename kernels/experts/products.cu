// expert_linear by one launch for all experts. Where each has much to do its product goes to cuBLASLt alone, which is faster at it, but
// takes the host tens of microseconds for every number of rows it has not met.
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/experts/products.h"

namespace ropewalk {
namespace {

using namespace cuda;

// Whether launches of their own pay for the experts' products, by what each has to do on average.
bool one_by_one(const ExpertPlan& plan, int64_t n, int64_t k) {
  constexpr double kFlops = 50e9;  // some 80 us
  return 2.0 * static_cast<double>(plan.rows()) * static_cast<double>(n) * static_cast<double>(k) >
         kFlops * static_cast<double>(plan.experts());
}

// Rows [first, end) of an expert, of which a tile takes as many as it has.
struct RowTile {
  int64_t expert, first, end;
};
Uploaded<RowTile> row_tiles(const ExpertPlan& plan, int64_t tile_rows) {
  std::vector<RowTile> tiles;
  for_each_expert(plan, [&](int64_t e, int64_t begin, int64_t count) {
    for (int64_t first = begin; first < begin + count; first += tile_rows) tiles.push_back({e, first, begin + count});
  });
  return upload(tiles);
}

// All experts' matrices [N, K].
template <class T>
struct Matrices {
  Operand<T> first;
  int64_t stride;  // from one to the next
  __device__ Operand<T> operator[](int64_t e) const {
    Operand<T> matrix = first;
    matrix.data += e * stride;
    return matrix;
  }
};
template <class T>
Matrices<T> matrices_of(const Tensor& weight) {
  return {.first = operand_of<T>(matrix_of(weight, 0), "expert_linear: weight"), .stride = weight.stride(0)};
}
template <class T>
bool in_packs(const Matrices<T>& x) {
  return cuda::in_packs(x.first) && x.stride % kPackWidth<T> == 0;
}

// y [A, ..] = x of expert e times matrix[e], whose terms lie along its rows (forward) or across (backward). Blocks: columns by row tiles.
template <class T, Terms terms, bool packed>
__global__ void __launch_bounds__(kLargeTile<T>.threads())
    multiply_rows(const RowTile* tiles, Operand<T> x, Matrices<T> matrices, Rows<T> y) {
  constexpr TileShape kTile = kLargeTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAlong, T, terms, packed>;
  SharedMemory shared;
  const RowTile tile = tiles[blockIdx.y];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  x.rows = tile.end;
  Product product;
  product.clear();
  product.add(x, matrices[tile.expert], tile.first, first_column, 0, x.width, shared.take<bfloat16>(Product::kShared));
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) {
    const int64_t row = tile.first + Product::row(i);
    if (row >= tile.end) continue;
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t column = first_column + Product::column(j);
      if (column < y.width) y[row][column] = static_cast<T>(product.at(i, j));
    }
  }
}

// dmatrix[e] += dy^T x of expert e. Blocks: columns by rows of a matrix by experts.
template <class T, bool packed>
__global__ void __launch_bounds__(kLargeTile<T>.threads())
    add_matrices(const int64_t* begin, Operand<T> dy, Operand<T> x, float* dmatrices, int64_t row_stride, int64_t stride) {
  constexpr TileShape kTile = kLargeTile<T>;
  using Product = TileProduct<kTile, T, Terms::kAcross, T, Terms::kAcross, packed>;
  const int64_t first = begin[blockIdx.z], end = begin[blockIdx.z + 1];
  if (first == end) return;
  SharedMemory shared;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile.rows, first_column = static_cast<int64_t>(blockIdx.x) * kTile.columns;
  dy.rows = x.rows = end;
  Product product;
  product.clear();
  product.add(dy, x, first_row, first_column, first, end, shared.take<bfloat16>(Product::kShared));
#pragma unroll
  for (int i = 0; i < Product::kRows; ++i) {
    const int64_t row = first_row + Product::row(i);
    if (row >= dy.width) continue;
#pragma unroll
    for (int j = 0; j < Product::kColumns; ++j) {
      const int64_t column = first_column + Product::column(j);
      if (column < x.width) dmatrices[blockIdx.z * stride + row * row_stride + column] += product.at(i, j);
    }
  }
}

template <class T, Terms terms>
void multiply(const Tensor& y, const Tensor& x, const Tensor& weight, const ExpertPlan& plan) {
  constexpr TileShape kTile = kLargeTile<T>;
  const Uploaded<RowTile> tiles = row_tiles(plan, kTile.rows);
  const Operand<T> from = operand_of<T>(x, "expert_linear: rows");
  const Matrices<T> matrices = matrices_of<T>(weight);
  const Rows<T> to = rows_of<T>(y);
  const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(to.width, kTile.columns)), static_cast<unsigned>(tiles.count)),
                  .threads = dim3(kTile.threads()),
                  .shared = shared_bytes<bfloat16>(TileProduct<kTile, T, Terms::kAlong, T, terms, true>::kShared)};
  const bool packed = cuda::in_packs(from) && in_packs(matrices);
  run(packed ? multiply_rows<T, terms, true> : multiply_rows<T, terms, false>, grid, tiles.data, from, matrices, to);
}

template <class T>
void add_weight_gradients(const ExpertLinearBackwardWeight& args) {
  constexpr TileShape kTile = kLargeTile<T>;
  const Uploaded<int64_t> begin = upload(args.plan.begin);
  const Operand<T> dy = operand_of<T>(args.dy, "expert_linear: dy"), x = operand_of<T>(args.rows, "expert_linear: rows");
  const Matrices<float> dmatrices = matrices_of<float>(args.dweight);
  const Grid grid{.blocks = dim3(static_cast<unsigned>(ceil_div(x.width, kTile.columns)),
                                 static_cast<unsigned>(ceil_div(dy.width, kTile.rows)), static_cast<unsigned>(args.plan.experts())),
                  .threads = dim3(kTile.threads()),
                  .shared = shared_bytes<bfloat16>(TileProduct<kTile, T, Terms::kAcross, T, Terms::kAcross, true>::kShared)};
  run(cuda::in_packs(dy) && cuda::in_packs(x) ? add_matrices<T, true> : add_matrices<T, false>, grid, begin.data, dy, x,
      args.dweight.data<float>(), dmatrices.first.stride, dmatrices.stride);
}

}  // namespace

void launch(Cuda, const ExpertLinearForward& args) {
  if (args.y.numel() == 0) return;
  if (args.rows.dim(-1) == 0) return args.y.fill(0);
  if (one_by_one(args.plan, args.y.dim(-1), args.rows.dim(-1)))
    return for_each_product(args, [](const MatMul& product) { launch(Cuda{}, product); });
  dispatch_narrow(args.y.dtype(),
                  [&]<class T>(std::type_identity<T>) { multiply<T, Terms::kAlong>(args.y, args.rows, args.weight, args.plan); });
}

void launch(Cuda, const ExpertLinearBackwardInput& args) {
  if (args.drows.numel() == 0) return;
  if (args.dy.dim(-1) == 0) return args.drows.fill(0);
  if (one_by_one(args.plan, args.dy.dim(-1), args.drows.dim(-1)))
    return for_each_product(args, [](const MatMul& product) { launch(Cuda{}, product); });
  dispatch_narrow(args.dy.dtype(),
                  [&]<class T>(std::type_identity<T>) { multiply<T, Terms::kAcross>(args.drows, args.dy, args.weight, args.plan); });
}

void launch(Cuda, const ExpertLinearBackwardWeight& args) {
  if (args.dweight.numel() == 0 || args.plan.rows() == 0) return;
  if (one_by_one(args.plan, args.dy.dim(-1), args.rows.dim(-1)))
    return for_each_product(args, [](const MatMul& product) { launch(Cuda{}, product); });
  dispatch_narrow(args.rows.dtype(), [&]<class T>(std::type_identity<T>) { add_weight_gradients<T>(args); });
}

}  // namespace ropewalk
