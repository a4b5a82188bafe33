// The heads of attention's tensors, and the operands that are laid out once a launch: those that tile after tile streams past.
#pragma once

#include <utility>
#include <vector>

#include "kernels/attention/visibility.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/prefetch.h"
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

// to = kept[i] * to + factor[i] * from[i], rows [width].
template <class W>
void add_rows(int64_t rows, int64_t width, const W* kept, const W* factor, const W* from, W* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t p = 0; p < width; ++p) to[i * stride + p] = kept[i] * to[i * stride + p] + factor[i] * from[i * width + p];
}

// Calls body with rows of a result, which is in T or in its wide type.
template <class T, class Body>
void with_rows(const Tensor& x, const TokenRange& tokens, int64_t head, const Body& body) {
  if (x.dtype() == dtype_of<T>())
    body(HeadsView<T>(x).rows(tokens, head));
  else
    body(HeadsView<Wide<T>>(x).rows(tokens, head));
}

template <class T>
void prefetch_rows(int64_t width, const HeadRows<T>& rows) {
  for (int64_t i = 0; i < rows.tokens; ++i) prefetch(width, rows.data + i * rows.stride);
}

// The parts of a launch that share streamed operands: a group of rows and one kv head. Where there are many, a task is a unit, and its
// operands stay in the cache of the thread that laid them out; else all units are prepared before all threads work on all of them. The
// results are the same.
class Units {
 public:
  explicit Units(int64_t count) : count_(count), whole_(count >= 2 * omp_get_max_threads()) {}

  int64_t count() const { return count_; }
  // How many units have operands at the same time; a unit's stand in its slot.
  int64_t slots() const { return whole_ ? omp_get_max_threads() : count_; }

  // Calls phase(unit, piece, slot) for each piece in [0, phase.pieces(unit)) of each phase; of a unit, a phase begins when the one before
  // it is done. A Session lives while a thread does so.
  template <class Session, class... Phases>
  void run(const Phases&... phases) const {
    if (whole_)
      parallel_for(count_, [&](int64_t unit) {
        [[maybe_unused]] const Session session;
        (run_pieces(phases, unit, omp_get_thread_num()), ...);
      });
    else
      (run_at_once<Session>(phases), ...);
  }

 private:
  template <class Phase>
  static void run_pieces(const Phase& phase, int64_t unit, int64_t slot) {
    for (int64_t piece = 0, n = phase.pieces(unit); piece < n; ++piece) phase.body(unit, piece, slot);
  }
  template <class Session, class Phase>
  void run_at_once(const Phase& phase) const {
    std::vector<std::pair<int64_t, int64_t>> all;
    for (int64_t unit = 0; unit < count_; ++unit)
      for (int64_t piece = 0, n = phase.pieces(unit); piece < n; ++piece) all.emplace_back(unit, piece);
    parallel_for(static_cast<int64_t>(all.size()), [&](int64_t i) {
      [[maybe_unused]] const Session session;
      const auto [unit, piece] = all[static_cast<size_t>(i)];
      phase.body(unit, piece, unit);
    });
  }

  int64_t count_;
  bool whole_;
};
template <class Pieces, class Body>
struct UnitPhase {
  Pieces pieces;
  Body body;
};
template <class Pieces, class Body>
UnitPhase(Pieces, Body) -> UnitPhase<Pieces, Body>;

// `size` elements for each place of each slot.
template <class T>
class SlotTiles {
 public:
  SlotTiles(int64_t slots, int64_t places, int64_t size)
      : places_(places), size_(size), storage_(Tensor::empty({slots, places, size}, dtype_of<T>())), data_(storage_.data<T>()) {}
  T* at(int64_t slot, int64_t place) const { return data_ + (slot * places_ + place) * size_; }

 private:
  int64_t places_, size_;
  Tensor storage_;
  T* data_;
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

 private:
  const TokenTiles& tiles_;
  int64_t width_;
  ThreadScratch<T> filled_;
};

}  // namespace ropewalk
