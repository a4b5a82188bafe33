// The heads of attention's tensors, and the operands that are laid out once a launch: those that tile after tile streams past.
#pragma once

#include "kernels/attention/visibility.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/thread_scratch.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {

// Neighbouring tokens of one head: [tokens, width], rows `stride` apart.
template <class T>
struct HeadRows {
  T* data;
  int64_t tokens, stride;
};

// A view [B, S, H, P] whose last dim is dense.
template <class T>
class HeadsView {
 public:
  explicit HeadsView(const Tensor& x)
      : data_(x.data<std::remove_const_t<T>>()), row_(x.stride(0)), token_(x.stride(1)), head_(x.stride(2)) {}
  HeadRows<T> rows(const TokenRange& tokens, int64_t head) const {
    return {data_ + tokens.row * row_ + tokens.begin * token_ + head * head_, tokens.length, token_};
  }

 private:
  T* data_;
  int64_t row_, token_, head_;
};

// to = factor[i] * from[i], rows [width].
template <class T, class W>
void store_rows(int64_t rows, int64_t width, const W* factor, const W* from, T* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t p = 0; p < width; ++p) store(to + i * stride + p, factor[i] * from[i * width + p]);
}

// An operand in the panels of P. A head's tiles stand one behind the other, as they are read.
template <class P>
class PackedTiles {
 public:
  using Element = typename P::Element;

  PackedTiles() = default;
  PackedTiles(int64_t tiles, int64_t heads, int64_t size)
      : tiles_(tiles), size_(size), storage_(Tensor::empty({heads, tiles, size}, dtype_of<Element>())), data_(storage_.data<Element>()) {}
  Element* at(int64_t tile, int64_t head) const { return data_ + (head * tiles_ + tile) * size_; }

 private:
  int64_t tiles_ = 0, size_ = 0;
  Tensor storage_;
  Element* data_ = nullptr;
};

// Tokens as they are packed. Those that nobody reads may be anything (a cache that is not full), and a probability of 0 times a NaN is a
// NaN: they are packed as zeros.
template <class T>
class TileReader {
 public:
  TileReader(const TokenTiles& tiles, int64_t width) : tiles_(tiles), width_(width), filled_(kTile * width) {}

  // Good until this thread's next call.
  HeadRows<const T> read(const HeadsView<const T>& x, int64_t tile, int64_t head) const {
    const HeadRows<const T> rows = x.rows(tiles_.tokens_of(tile), head);
    if (tiles_.reads_all(tile)) return rows;
    T* const to = filled_.mine();
    for (int64_t i = 0; i < rows.tokens; ++i) {
      if (tiles_.reads(tile, i))
        std::copy_n(rows.data + i * rows.stride, width_, to + i * width_);
      else
        std::fill_n(to + i * width_, width_, T());
    }
    return {to, rows.tokens, width_};
  }

  // Calls body(tile, head) for all tiles that somebody reads.
  template <class Body>
  void for_each(int64_t heads, const Body& body) const {
    const std::vector<int64_t> read = tiles_.tiles_read();
    parallel_for(static_cast<int64_t>(read.size()) * heads, [&](int64_t i) { body(read[static_cast<size_t>(i / heads)], i % heads); });
  }

 private:
  const TokenTiles& tiles_;
  int64_t width_;
  ThreadScratch<T> filled_;
};

}  // namespace ropewalk
