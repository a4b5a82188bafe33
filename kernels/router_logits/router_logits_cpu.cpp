#include <algorithm>
#include <array>

#include "kernels/matmul/tile.h"
#include "kernels/router_logits/router_logits.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

// Blocks of x while it is wide.
constexpr int64_t kTokens = 32, kColumns = 256;            // a task's tokens at a time
constexpr int64_t kTokensOfSum = 128, kColumnsOfSum = 64;  // for dweight, of which a task owns columns

// A block of x and its dense wide copy [rows, columns].
template <class T>
struct Block {
  Wide<T>* wide;
  T* x;
  int64_t stride, rows, columns;
};

template <class T>
void widen(Block<T> b) {
  for (int64_t i = 0; i < b.rows; ++i) {
#pragma omp simd
    for (int64_t c = 0; c < b.columns; ++c) b.wide[i * b.columns + c] = static_cast<Wide<T>>(b.x[i * b.stride + c]);
  }
}

template <class T>
void narrow(Block<T> b) {
  for (int64_t i = 0; i < b.rows; ++i) {
#pragma omp simd
    for (int64_t c = 0; c < b.columns; ++c) store(&b.x[i * b.stride + c], b.wide[i * b.columns + c]);
  }
}

// Calls work(first column, Block) for the columns of x's tokens [begin, end), a block after the other.
template <class T, class Work>
void for_column_blocks(const Rows<T>& x, int64_t begin, int64_t end, const Work& work) {
  std::array<Wide<T>, kTokens * kColumns> wide;
  for (int64_t column = 0; column < x.width; column += kColumns)
    work(column, Block<T>{wide.data(), x[begin] + column, x.stride, end - begin, std::min(kColumns, x.width - column)});
}

template <class T>
void forward(const RouterLogitsForward& args) {
  using W = Wide<T>;
  const Rows<T> x = rows_of<T>(args.x, "router_logits: x");
  const int64_t experts = args.weight.dim(0), tokens = args.y.numel() / experts;
  const Tensor columns = Tensor::empty({x.width, experts}, args.weight.dtype());
  tile::transpose(experts, x.width, args.weight.data<W>(), x.width, columns.data<W>(), experts);
  const W *const weight = columns.data<W>(), *const bias = args.bias ? args.bias.data<W>() : nullptr;
  W* const y = args.y.data<W>();
  parallel_ranges(tokens, kTokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t e = 0; e < experts; ++e) y[t * experts + e] = bias ? bias[e] : W(0);
    for_column_blocks(x, begin, end, [&](int64_t column, const Block<T>& block) {
      vectorized<widen<T>>(block);
      vectorized<tile::multiply_add<W>>(block.rows, experts, block.columns, tile::Matrix<W>{block.wide, block.columns},
                                        weight + column * experts, experts, y + begin * experts, experts);
    });
  });
}

template <class T>
void backward_input(const RouterLogitsBackwardInput& args) {
  using W = Wide<T>;
  const Rows<T> dx = rows_of<T>(args.dx);
  const int64_t experts = args.weight.dim(0);
  const W *const dy = args.dy.data<W>(), *const weight = args.weight.data<W>();
  parallel_ranges(dx.count, kTokens, [&](int64_t begin, int64_t end) {
    for_column_blocks(dx, begin, end, [&](int64_t column, const Block<T>& block) {
      std::fill_n(block.wide, block.rows * block.columns, W(0));
      vectorized<tile::multiply_add<W>>(block.rows, block.columns, experts, tile::Matrix<W>{dy + begin * experts, experts}, weight + column,
                                        dx.width, block.wide, block.columns);
      vectorized<narrow<T>>(block);
    });
  });
}

// A task owns columns of dweight and adds token block after token block: the order does not depend on threads.
template <class T>
void add_dweight(const RouterLogitsBackwardWeight& args) {
  using W = Wide<T>;
  const Rows<T> x = rows_of<T>(args.x, "router_logits: x");
  const int64_t experts = args.dweight.dim(0);
  const W* const dy = args.dy.data<W>();
  W* const dweight = args.dweight.data<W>();
  parallel_ranges(x.width, kColumnsOfSum, [&](int64_t column, int64_t end) {
    std::array<W, kTokensOfSum * kColumnsOfSum> wide;
    for (int64_t t = 0; t < x.count; t += kTokensOfSum) {
      const Block<T> block{wide.data(), x[t] + column, x.stride, std::min(kTokensOfSum, x.count - t), end - column};
      vectorized<widen<T>>(block);
      vectorized<tile::multiply_add<W>>(experts, block.columns, block.rows, tile::Matrix<W>{dy + t * experts, experts}.transposed(),
                                        block.wide, block.columns, dweight + column, x.width);
    }
  });
}

template <class W>
void add_dbias(const Tensor& dbias, const Tensor& dy) {
  const int64_t experts = dbias.numel(), tokens = dy.numel() / experts;
  const W* const d = dy.data<W>();
  W* const sum = dbias.data<W>();
  for (int64_t e = 0; e < experts; ++e) {
    double total = 0;
    for (int64_t t = 0; t < tokens; ++t) total += static_cast<double>(d[t * experts + e]);
    sum[e] += static_cast<W>(total);
  }
}

}  // namespace

void launch(Cpu, const RouterLogitsForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { forward<T>(args); });
}

void launch(Cpu, const RouterLogitsBackwardInput& args) {
  if (args.dx.numel() == 0) return;
  dispatch_float(args.dx.dtype(), [&]<class T>(std::type_identity<T>) { backward_input<T>(args); });
}

void launch(Cpu, const RouterLogitsBackwardWeight& args) {
  if (args.dy.numel() == 0) return;
  if (args.dweight && args.dweight.numel() > 0)
    dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) { add_dweight<T>(args); });
  if (!args.dbias) return;
  if (args.dy.dtype() == DType::kFloat64)
    add_dbias<double>(args.dbias, args.dy);
  else
    add_dbias<float>(args.dbias, args.dy);
}

}  // namespace ropewalk
