// Products block by block, over a kernel that multiplies packed panels. Tasks share the blocks of c; a task packs its own rows of a, piece
// by piece of the sum, and its own columns of b unless b was packed beforehand for many tasks.
//
// A kernel K brings along:
//   K::Packed                      the type of packed elements
//   K::kRows, K::kColumns          rows of a and columns of b in a panel; what is packed are whole panels
//   K::kDepth                      a sum is taken in pieces of at most so many terms. Pieces depend on k alone, and blocks of c do not
//   change a
//                                  sum, so blocks may be cut by the number of threads
//   K::kBlockRows, K::kBlockColumns, K::kColumnsOfLongSums, K::kRowsOfGradients
//                                  largest blocks of c: for sums of one piece; columns where they are of several; rows where a is
//                                  transposed
//   K::size_of_a(rows, k), K::size_of_b(columns, k)                               elements packed
//   K::pack_a(a, i, l, rows, k, to), K::pack_b(b, l, j, k, columns, to)           rows i.. and columns j.., terms l..
//   K::multiply(Piece, c, c_stride)
//   K::Session                     lives while a task multiplies
#pragma once

#include <omp.h>

#include <algorithm>

#include "kernels/matmul/problem.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/thread_scratch.h"

namespace ropewalk::matmul {

template <class T>
struct Operand {
  const T* data;
  int64_t stride;
  bool transpose;
};

// c = a b + sum, over panels.
template <class Packed>
struct Piece {
  int64_t m, n, k;
  const Packed *a, *b;
  bool transposed_a;  // what a was packed from
  const float* sum = nullptr;
  int64_t sum_stride = 0;
};

struct Cut {
  int64_t depth, rows, columns;  // of a block of c, and of a piece of its sums
  int64_t pieces, grid_rows, grid_columns;
};

// As few blocks of rows as give every thread the same work, or enough blocks not to care.
inline int64_t blocks_of_rows(int64_t m, int64_t most_rows, int64_t grid_columns) {
  constexpr int64_t kLeastRows = 64;
  const int64_t threads = omp_get_max_threads(), most = divide_up(m, kLeastRows);
  int64_t blocks = divide_up(m, most_rows);
  while (blocks < most && blocks * grid_columns % threads != 0 && blocks * grid_columns < 4 * threads) ++blocks;
  return blocks;
}

template <class K>
Cut cut_of(const Problem& p) {
  const int64_t depth = even_extent(p.k, K::kDepth, 32), pieces = divide_up(p.k, depth);
  const int64_t columns = even_extent(p.n, pieces == 1 ? K::kBlockColumns : K::kColumnsOfLongSums, K::kColumns);
  const int64_t grid_columns = divide_up(p.n, columns);
  const int64_t blocks = blocks_of_rows(p.m, p.transpose_a ? K::kRowsOfGradients : K::kBlockRows, grid_columns);
  const int64_t rows = even_extent(p.m, divide_up(p.m, blocks), K::kRows);
  return {
      .depth = depth, .rows = rows, .columns = columns, .pieces = pieces, .grid_rows = divide_up(p.m, rows), .grid_columns = grid_columns};
}

template <class K, class T, class C>
class BlockwiseProduct {
  using Packed = typename K::Packed;

 public:
  BlockwiseProduct(const Problem& p, const Operand<T>& a, const Operand<T>& b, C* c)
      : p_(p),
        a_(a),
        b_(b),
        c_(c),
        cut_(cut_of<K>(p)),
        rows_at_once_(a.transpose ? cut_.rows : K::kRows),
        shares_b_(cut_.grid_rows > kFewTasks),
        sums_stride_(cut_.columns + 16),  // no power of two
        a_panels_(K::size_of_a(rows_at_once_, cut_.depth)),
        b_panels_(shares_b_ ? 0 : K::size_of_b(cut_.columns, cut_.depth)),
        sums_(kRounds && cut_.pieces > 1 ? cut_.rows * sums_stride_ : 0) {}

  void run() {
    if (shares_b_) pack_all_of_b();
    parallel_for(cut_.grid_rows * cut_.grid_columns, [&](int64_t task) {  // down the columns: neighbours share their part of b
      multiply_block(task % cut_.grid_rows * cut_.rows, task / cut_.grid_rows * cut_.columns);
    });
  }

 private:
  static constexpr bool kRounds = !std::is_same_v<C, float>;
  static constexpr int64_t kFewTasks = 4;  // that need a column of b: each packs it for itself, which spares memory a copy

  int64_t depth(int64_t l) const { return std::min(cut_.depth, p_.k - l); }  // of the piece from term l
  // In all of b packed: the piece from term l, in panels, from that of column j on.
  Packed* shared_b(int64_t l, int64_t j) const {
    const int64_t pieces_before = l / cut_.depth * K::size_of_b(p_.n, cut_.depth);
    return shared_b_ + pieces_before + K::size_of_b(j, depth(l));
  }

  void pack_all_of_b() {
    all_of_b_ = Tensor::empty({cut_.pieces * K::size_of_b(p_.n, cut_.depth)}, dtype_of<Packed>());
    shared_b_ = all_of_b_.data<Packed>();
    const int64_t columns = b_.transpose ? K::kColumns : cut_.columns, grid_columns = divide_up(p_.n, columns);
    parallel_for(cut_.pieces * grid_columns, [&](int64_t task) {
      const int64_t l = task / grid_columns * cut_.depth, j = task % grid_columns * columns;
      K::pack_b(b_, l, j, depth(l), std::min(columns, p_.n - j), shared_b(l, j));
    });
  }

  void multiply_block(int64_t row, int64_t column) const {
    [[maybe_unused]] const typename K::Session session;
    Packed *const a_panels = a_panels_.mine(), *const b_panels = b_panels_.mine();
    const int64_t end = std::min(row + cut_.rows, p_.m), columns = std::min(cut_.columns, p_.n - column);
    for (int64_t l = 0; l < p_.k; l += cut_.depth) {
      if (!shares_b_) K::pack_b(b_, l, column, depth(l), columns, b_panels);
      for (int64_t i = row; i < end; i += rows_at_once_) {
        const int64_t rows = std::min(rows_at_once_, end - i);
        K::pack_a(a_, i, l, rows, depth(l), a_panels);
        const Piece<Packed> piece{.m = rows,
                                  .n = columns,
                                  .k = depth(l),
                                  .a = a_panels,
                                  .b = shares_b_ ? shared_b(l, column) : b_panels,
                                  .transposed_a = a_.transpose};
        add_piece(piece, l, c_ + i * p_.c_stride + column, sums_.mine() + (i - row) * sums_stride_);
      }
    }
  }

  // The piece from term l into its part of c: fp32 adds up in c itself, bf16 in `sums`, and the last piece rounds.
  void add_piece(Piece<Packed> piece, int64_t l, C* c, float* sums) const {
    if constexpr (kRounds) {
      if (l > 0) piece.sum = sums;
      piece.sum_stride = sums_stride_;
      if (l + piece.k < p_.k) return K::multiply(piece, sums, sums_stride_);
    } else {
      if (l > 0 || p_.accumulate) piece.sum = c;
      piece.sum_stride = p_.c_stride;
    }
    K::multiply(piece, c, p_.c_stride);
  }

  Problem p_;
  Operand<T> a_, b_;
  C* c_;
  Cut cut_;
  int64_t rows_at_once_;  // of a are packed
  bool shares_b_;
  int64_t sums_stride_;
  ThreadScratch<Packed> a_panels_, b_panels_;
  ThreadScratch<float> sums_;
  Tensor all_of_b_;
  Packed* shared_b_ = nullptr;
};

// c may be fp32, or T. Adds only to fp32.
template <class K, class T>
void multiply_blockwise(const MatMul& product, const Problem& p) {
  const Operand<T> a{product.a.data<T>(), p.a_stride, p.transpose_a}, b{product.b.data<T>(), p.b_stride, p.transpose_b};
  if (p.out == DType::kFloat32)
    BlockwiseProduct<K, T, float>(p, a, b, product.c.data<float>()).run();
  else if constexpr (std::is_same_v<T, bfloat16>)
    BlockwiseProduct<K, T, bfloat16>(p, a, b, product.c.data<bfloat16>()).run();
}

}  // namespace ropewalk::matmul
