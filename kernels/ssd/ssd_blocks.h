// A chunk's tokens in blocks of kBlock, and the square of its tokens in pairs of blocks, of which only the causal ones are ever made.
#pragma once

#include "kernels/matmul/panels.h"
#include "kernels/ssd/ssd_leaves.h"
#include "kernels/tensor/scratch.h"

namespace ropewalk::ssd {

struct Block {
  int64_t index, first, tokens;  // the last block of a chunk may have less than kBlock
};
inline int64_t block_count(int64_t tokens) { return (tokens + kBlock - 1) / kBlock; }
inline Block block_of(int64_t tokens, int64_t index) { return {index, index * kBlock, std::min(kBlock, tokens - index * kBlock)}; }

template <class Body>
void for_each_block(int64_t tokens, const Body& body) {
  for (int64_t i = 0; i < block_count(tokens); ++i) body(block_of(tokens, i));
}

// Something for each block.
template <class E>
class OfBlocks {
 public:
  OfBlocks(int64_t blocks, int64_t size) : size_(size), room_(blocks * size) {}
  E* operator[](const Block& block) const { return room_ + block.index * size_; }

 private:
  int64_t size_;
  Scratch<E> room_;
};

// [kBlock, kBlock] for each pair of a block of rows and one of columns that is not later. What no token has to do with is finite.
template <class W>
class OfPairs {
 public:
  explicit OfPairs(int64_t blocks) : room_(blocks * (blocks + 1) / 2 * kBlock * kBlock) { zero(); }
  W* operator()(const Block& rows, const Block& columns) const {
    return room_ + (rows.index * (rows.index + 1) / 2 + columns.index) * kBlock * kBlock;
  }
  void zero() const { room_.zero(); }

 private:
  Scratch<W> room_;
};

// Rows of x [tokens, width], each block of them an operand: as rows of a, as terms of b, as columns of b.
template <class Panels, class T>
void lay_out_left(int64_t tokens, int64_t width, const T* x, int64_t stride, const OfBlocks<typename Panels::Element>& to) {
  for_each_block(tokens, [&](const Block& b) { Panels::left(b.tokens, width, x + b.first * stride, stride, to[b]); });
}
template <class Panels, class T>
void lay_out_right(int64_t tokens, int64_t width, const T* x, int64_t stride, const OfBlocks<typename Panels::Element>& to) {
  for_each_block(tokens, [&](const Block& b) { Panels::right(b.tokens, width, x + b.first * stride, stride, to[b]); });
}
template <class Panels, class T>
void lay_out_right_transposed(int64_t tokens, int64_t width, const T* x, int64_t stride, const OfBlocks<typename Panels::Element>& to) {
  for_each_block(tokens, [&](const Block& b) { Panels::right_transposed(width, b.tokens, x + b.first * stride, stride, to[b]); });
}

// Scores c_i . b_j; c is laid out as rows already.
template <class Panels, class T>
void find_scores(int64_t tokens, int64_t state, const OfBlocks<typename Panels::Element>& c, const T* b, int64_t b_stride,
                 typename Panels::Element* b_t, const OfPairs<Wide<T>>& scores) {
  for_each_block(tokens, [&](const Block& columns) {
    Panels::right_transposed(state, columns.tokens, b + columns.first * b_stride, b_stride, b_t);
    for (int64_t i = columns.index; i < block_count(tokens); ++i) {
      const Block rows = block_of(tokens, i);
      Panels::multiply(rows.tokens, columns.tokens, state, c[rows], b_t, scores(rows, columns), kBlock);
    }
  });
}

// decay [kBlock, kBlock] = exp(cum_i - cum_j), zero where j > i.
template <class W>
void find_decay(const Block& rows, const Block& columns, const double* cum, W* decay) {
  if (rows.index == columns.index)
    vectorized<decay_inside<W>>(rows.tokens, cum + rows.first, decay);
  else
    vectorized<decay_across<W>>(rows.tokens, cum + rows.first, cum + columns.first, decay);
}

}  // namespace ropewalk::ssd
