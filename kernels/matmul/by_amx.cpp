// bf16 products on AMX tiles. Tasks share the blocks of c; a task packs its own rows of a, piece by piece of the sum, and its own columns
// of b unless b was packed beforehand for many tasks.
#include <omp.h>

#include "kernels/amx/amx.h"
#include "kernels/matmul/problem.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk::matmul {
namespace {

// A sum is taken in pieces of at most kDepth terms: of these, a panel of a (32 KiB) stays in L1 while those of b pass by. The pieces depend
// on k alone. Blocks of c do not change a sum (kernels/amx/amx.h), so they may be cut by the number of threads.
constexpr int64_t kDepth = 512;
// Blocks of c, measured: a layer's product has many rows and streams them past columns of b that stay in L2; a weight's gradient (a
// transposed) has long sums, and few large blocks keep down what is packed twice.
constexpr int64_t kRows = 256, kColumns = 1024, kColumnsOfLongSums = 704, kRowsOfGradients = 512, kLeastRows = 64;
constexpr int64_t kFewTasks = 4;  // that need a column of b: each packs it for itself

struct Cut {
  int64_t depth, rows, columns;  // of a block of c, and of a piece of its sums
  int64_t pieces, grid_rows, grid_columns;
};

// As few blocks of rows as give every thread the same work, or enough blocks not to care.
int64_t blocks_of_rows(int64_t m, int64_t most_rows, int64_t grid_columns) {
  const int64_t threads = omp_get_max_threads(), most = divide_up(m, kLeastRows);
  int64_t blocks = divide_up(m, most_rows);
  while (blocks < most && blocks * grid_columns % threads != 0 && blocks * grid_columns < 4 * threads) ++blocks;
  return blocks;
}

Cut cut_of(const Problem& p) {
  const int64_t depth = even_extent(p.k, kDepth), pieces = divide_up(p.k, depth);
  const int64_t columns = even_extent(p.n, pieces == 1 ? kColumns : kColumnsOfLongSums), grid_columns = divide_up(p.n, columns);
  const int64_t rows = even_extent(p.m, divide_up(p.m, blocks_of_rows(p.m, p.transpose_a ? kRowsOfGradients : kRows, grid_columns)));
  return {
      .depth = depth, .rows = rows, .columns = columns, .pieces = pieces, .grid_rows = divide_up(p.m, rows), .grid_columns = grid_columns};
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

// A tensor's worth of T for each thread.
template <class T>
class ThreadScratch {
 public:
  explicit ThreadScratch(int64_t size)
      : size_(size), all_(Tensor::empty({omp_get_max_threads(), size}, dtype_of<T>())), data_(all_.data<T>()) {}
  T* mine() const { return data_ + omp_get_thread_num() * size_; }

 private:
  int64_t size_;
  Tensor all_;
  T* data_;
};

template <class C>
class BlockwiseProduct {
 public:
  BlockwiseProduct(const Problem& p, const Operand& a, const Operand& b, C* c)
      : p_(p),
        a_(a),
        b_(b),
        c_(c),
        cut_(cut_of(p)),
        rows_at_once_(a.transpose ? cut_.rows : amx::kPanel),
        shares_b_(cut_.grid_rows > kFewTasks),
        sums_stride_(cut_.columns + 16),  // no power of two
        a_panels_(amx::packed_size(rows_at_once_, cut_.depth)),
        b_panels_(shares_b_ ? 0 : amx::packed_size(cut_.columns, cut_.depth)),
        sums_(kRounds && cut_.pieces > 1 ? cut_.rows * sums_stride_ : 0) {}

  void run() {
    if (shares_b_) pack_all_of_b();
    parallel_for(cut_.grid_rows * cut_.grid_columns, [&](int64_t task) {  // down the columns: neighbours share their part of b
      multiply_block(task % cut_.grid_rows * cut_.rows, task / cut_.grid_rows * cut_.columns);
    });
  }

 private:
  static constexpr bool kRounds = std::is_same_v<C, bfloat16>;

  int64_t depth(int64_t l) const { return std::min(cut_.depth, p_.k - l); }  // of the piece from term l
  // In all of b packed: the piece from term l, in panels, from that of column j on.
  bfloat16* shared_b(int64_t l, int64_t j) const {
    return shared_b_ + l * amx::panels(p_.n) * amx::kPanel + j / amx::kPanel * amx::steps(depth(l)) * amx::kStep;
  }

  void pack_all_of_b() {
    all_of_b_ = Tensor::empty({amx::packed_size(p_.n, p_.k)}, DType::kBFloat16);
    shared_b_ = all_of_b_.data<bfloat16>();
    const int64_t columns = b_.transpose ? amx::kPanel : cut_.columns, grid_columns = divide_up(p_.n, columns);
    parallel_for(cut_.pieces * grid_columns, [&](int64_t task) {
      const int64_t l = task / grid_columns * cut_.depth, j = task % grid_columns * columns;
      pack_columns(b_, l, j, depth(l), std::min(columns, p_.n - j), shared_b(l, j));
    });
  }

  void multiply_block(int64_t row, int64_t column) const {
    const amx::Tiles tiles;
    bfloat16 *const a_panels = a_panels_.mine(), *const b_panels = b_panels_.mine();
    const int64_t end = std::min(row + cut_.rows, p_.m), columns = std::min(cut_.columns, p_.n - column);
    for (int64_t l = 0; l < p_.k; l += cut_.depth) {
      if (!shares_b_) pack_columns(b_, l, column, depth(l), columns, b_panels);
      for (int64_t i = row; i < end; i += rows_at_once_) {
        const int64_t rows = std::min(rows_at_once_, end - i);
        pack_rows(a_, i, l, rows, depth(l), a_panels);
        const amx::Product piece{.m = rows, .n = columns, .k = depth(l), .a = a_panels, .b = shares_b_ ? shared_b(l, column) : b_panels};
        add_piece(piece, l, c_ + i * p_.c_stride + column, sums_.mine() + (i - row) * sums_stride_);
      }
    }
  }

  // The piece from term l into its part of c: fp32 adds up in c itself, bf16 in `sums`, and the last piece rounds.
  void add_piece(amx::Product piece, int64_t l, C* c, float* sums) const {
    if constexpr (kRounds) {
      if (l > 0) piece.sum = sums;
      piece.sum_stride = sums_stride_;
      if (l + piece.k < p_.k) return amx::multiply(piece, sums, sums_stride_);
    } else {
      if (l > 0 || p_.accumulate) piece.sum = c;
      piece.sum_stride = p_.c_stride;
    }
    amx::multiply(piece, c, p_.c_stride);
  }

  Problem p_;
  Operand a_, b_;
  C* c_;
  Cut cut_;
  int64_t rows_at_once_;  // of a are packed
  bool shares_b_;
  int64_t sums_stride_;
  ThreadScratch<bfloat16> a_panels_, b_panels_;
  ThreadScratch<float> sums_;
  Tensor all_of_b_;
  bfloat16* shared_b_ = nullptr;
};

}  // namespace

void multiply_by_amx(const MatMul& product, const Problem& p) {
  const Operand a{product.a.data<bfloat16>(), p.a_stride, p.transpose_a}, b{product.b.data<bfloat16>(), p.b_stride, p.transpose_b};
  if (p.out == DType::kFloat32)
    BlockwiseProduct(p, a, b, product.c.data<float>()).run();
  else
    BlockwiseProduct(p, a, b, product.c.data<bfloat16>()).run();
}

}  // namespace ropewalk::matmul
