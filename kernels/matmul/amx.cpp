// bf16 products on AMX tiles: b is packed once, a by the tasks that share c out among them.
#include "kernels/amx/amx.h"

#include <omp.h>

#include "kernels/matmul/problem.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk::matmul {
namespace {

// A sum is taken in pieces of at most kDepth terms, of which a panel of b (32 KiB) and the passing panels of a leave L1 room for each
// other. The pieces depend on k alone. Blocks of c do not change a sum (amx.h), so they may be cut by the number of threads.
constexpr int64_t kDepth = 512;
#ifndef KR
#define KR 256
#define KC 704
#endif
constexpr int64_t kRows = KR, kColumns = KC, kLeastRows = 64;

struct Cut {
  int64_t depth, rows, columns;
  int64_t rows_at_once;  // of a are packed
  int64_t pieces, grid_rows, grid_columns;
};

Cut cut_of(const Problem& p) {
  Cut cut{};
  cut.depth = even_extent(p.k, kDepth);
  cut.pieces = divide_up(p.k, cut.depth);
  cut.columns = even_extent(p.n, kColumns);
  cut.grid_columns = divide_up(p.n, cut.columns);
  int64_t most_rows = kRows;
  while (most_rows > kLeastRows && divide_up(p.m, most_rows) * cut.grid_columns < 2 * omp_get_max_threads()) most_rows /= 2;
  cut.rows = even_extent(p.m, most_rows);
  cut.grid_rows = divide_up(p.m, cut.rows);
  cut.rows_at_once = p.transpose_a ? cut.rows : amx::kPanel;
  return cut;
}

struct Operand {
  const bfloat16* data;
  int64_t stride;
  bool transpose;
};

// Rows i.. of a, from term l.
void pack_rows(const Operand& a, int64_t i, int64_t l, int64_t rows, int64_t depth, bfloat16* to) {
  if (a.transpose)
    amx::pack_a_transposed(rows, depth, a.data + l * a.stride + i, a.stride, to);
  else
    amx::pack_a(rows, depth, a.data + i * a.stride + l, a.stride, to);
}

// Columns j.. of b, from term l.
void pack_columns(const Operand& b, int64_t l, int64_t j, int64_t depth, int64_t columns, bfloat16* to) {
  if (b.transpose)
    amx::pack_b_transposed(depth, columns, b.data + j * b.stride + l, b.stride, to);
  else
    amx::pack_b(depth, columns, b.data + l * b.stride + j, b.stride, to);
}

// All of b, piece by piece of k, each in panels of columns.
class PackedB {
 public:
  PackedB(const Operand& b, const Problem& p, int64_t depth)
      : panels_(amx::panels(p.n)), depth_(depth), k_(p.k), packed_(Tensor::empty({amx::packed_size(p.n, p.k)}, DType::kBFloat16)) {
    data_ = packed_.data<bfloat16>();
    const int64_t pieces = divide_up(k_, depth_);
    const int64_t columns = b.transpose ? amx::kPanel : kColumns, grid_columns = divide_up(p.n, columns);
    parallel_for(grid_columns * pieces, [&](int64_t task) {
      const int64_t l = task / grid_columns * depth_, j = task % grid_columns * columns;
      pack_columns(b, l, j, std::min(depth_, k_ - l), std::min(columns, p.n - j), panel(l, j));
    });
  }

  // The panel of columns j.., terms l.. to the end of their piece; those of the columns behind follow.
  bfloat16* panel(int64_t l, int64_t j) const {
    return data_ + l * panels_ * amx::kPanel + j / amx::kPanel * amx::steps(std::min(depth_, k_ - l)) * amx::kStep;
  }

 private:
  int64_t panels_, depth_, k_;
  Tensor packed_;
  bfloat16* data_;
};

// A thread's memory: a panel of a, and the sums of a block of c.
struct Scratch {
  bfloat16* panels;
  float* sums;
  int64_t sums_stride;
};

class ThreadScratch {
 public:
  ThreadScratch(const Cut& cut, bool keeps_sums)
      : stride_(cut.columns + 16),  // no power of two
        panels_(Tensor::empty({omp_get_max_threads(), amx::packed_size(cut.rows_at_once, cut.depth)}, DType::kBFloat16)),
        sums_(Tensor::empty({omp_get_max_threads(), keeps_sums ? cut.rows * stride_ : 0}, DType::kFloat32)) {}

  Scratch mine() const {
    const int thread = omp_get_thread_num();
    return {panels_.data<bfloat16>() + thread * panels_.dim(1), sums_.data<float>() + thread * sums_.dim(1), stride_};
  }

 private:
  int64_t stride_;
  Tensor panels_, sums_;
};

// Calls body(i, l, piece) for every panel of rows of the block of c at (row, column), piece of k by piece; `piece` is the product of that
// panel of a, packed into `panel`, with the block's columns of b.
template <class Body>
void for_each_piece(const Problem& p, const Cut& cut, const Operand& a, const PackedB& b, int64_t row, int64_t column, bfloat16* panels,
                    const Body& body) {
  const int64_t end = std::min(row + cut.rows, p.m), columns = std::min(cut.columns, p.n - column);
  for (int64_t l = 0; l < p.k; l += cut.depth) {
    const int64_t depth = std::min(cut.depth, p.k - l);
    for (int64_t i = row; i < end; i += cut.rows_at_once) {
      const int64_t rows = std::min(cut.rows_at_once, end - i);
      pack_rows(a, i, l, rows, depth, panels);
      body(i, l, amx::Product{.m = rows, .n = columns, .k = depth, .a = panels, .b = b.panel(l, column)});
    }
  }
}

// fp32: the pieces add up in c itself.
void multiply_block(const Problem& p, const Cut& cut, const Operand& a, const PackedB& b, float* c, int64_t row, int64_t column,
                    const Scratch& scratch) {
  for_each_piece(p, cut, a, b, row, column, scratch.panels, [&](int64_t i, int64_t l, amx::Product piece) {
    float* const to = c + i * p.c_stride + column;
    if (l > 0 || p.accumulate) piece.sum = to;
    piece.sum_stride = p.c_stride;
    amx::multiply(piece, to, p.c_stride);
  });
}

// bf16: the pieces add up in scratch, and the last one rounds.
void multiply_block(const Problem& p, const Cut& cut, const Operand& a, const PackedB& b, bfloat16* c, int64_t row, int64_t column,
                    const Scratch& scratch) {
  for_each_piece(p, cut, a, b, row, column, scratch.panels, [&](int64_t i, int64_t l, amx::Product piece) {
    float* const sums = scratch.sums + (i - row) * scratch.sums_stride;
    if (l > 0) piece.sum = sums;
    piece.sum_stride = scratch.sums_stride;
    if (l + piece.k < p.k)
      amx::multiply(piece, sums, scratch.sums_stride);
    else
      amx::multiply(piece, c + i * p.c_stride + column, p.c_stride);
  });
}

template <class C>
void multiply(const Problem& p, const Operand& a, const Operand& b, C* c) {
  const Cut cut = cut_of(p);
  const PackedB packed(b, p, cut.depth);
  const ThreadScratch scratch(cut, cut.pieces > 1 && p.out == DType::kBFloat16);
  parallel_for(cut.grid_rows * cut.grid_columns, [&](int64_t task) {  // down the columns: neighbours share their columns of b
    const amx::Tiles tiles;
    multiply_block(p, cut, a, packed, c, task % cut.grid_rows * cut.rows, task / cut.grid_rows * cut.columns, scratch.mine());
  });
}

}  // namespace

void multiply_by_amx(const MatMul& product, const Problem& p) {
  const Operand a{product.a.data<bfloat16>(), p.a_stride, p.transpose_a}, b{product.b.data<bfloat16>(), p.b_stride, p.transpose_b};
  if (p.out == DType::kFloat32)
    multiply(p, a, b, product.c.data<float>());
  else
    multiply(p, a, b, product.c.data<bfloat16>());
}

}  // namespace ropewalk::matmul
