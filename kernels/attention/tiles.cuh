// What the kernels of attention have in common: a block holds tiles of the tokens of a task and streams tiles of the tokens that they meet
// past them, in two stages: while one is worked on, the next is on its way. A warp owns 16 or 32 of the tokens held, which are the rows of
// its products. Widths of heads are filled up with zeros.
#pragma once

#include "kernels/attention/tasks.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/exp2.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/tensor/tensor.h"

namespace ropewalk::attention_tiles {

using namespace cuda;

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr float kLog2E = 1.4426950408889634f, kInfinity = __builtin_huge_valf();

// A view [B, S, H, P] whose last dim is dense.
template <class T>
struct Heads {
  T* data;
  int64_t row_stride, token_stride, head_stride;
  int width;
  bool in_packs;  // of sixteen bytes
  __device__ T* at(int row, int token, int head) const { return data + row * row_stride + token * token_stride + head * head_stride; }
};
template <class T>
Heads<T> heads_of(const Tensor& x) {
  T* const data = x.data<std::remove_const_t<T>>();
  const auto fits = [&](int64_t stride) { return packs(data, stride, kPackWidth<T>); };
  return {.data = data,
          .row_stride = x.stride(0),
          .token_stride = x.stride(1),
          .head_stride = x.stride(2),
          .width = static_cast<int>(x.dim(3)),
          .in_packs = fits(x.stride(0)) && fits(x.stride(1)) && fits(x.stride(2)) && fits(x.dim(3))};
}

// Rows of a tile in shared memory, in elements: different banks for neighbours.
template <class T, int width>
constexpr int kStride = width + kPackWidth<T>;
template <class T, int width>
constexpr int tile_size(int rows) {
  return rows * kStride<T, width>;
}

// tile [rows, width] <- tokens of one head; zeros beyond `tokens` and beyond the heads' width. There after wait_for_copies().
template <int rows, int width, class T>
__device__ void load_tokens(const Heads<const T>& x, int row, int begin, int head, int tokens, T* tile) {
  using Item = Pack<T, kPackWidth<T>>;
  constexpr int kItems = width / kPackWidth<T>, kTokens = kThreads / kItems;  // items a token, tokens at a time
  static_assert(kThreads % kItems == 0 && rows % kTokens == 0);
  const int first = static_cast<int>(threadIdx.x / kItems), at = static_cast<int>(threadIdx.x % kItems) * kPackWidth<T>;
  T* const to = tile + first * kStride<T, width> + at;
  const T* const from = x.at(row, begin + first, head) + at;
  if (x.in_packs) {
    const int there = at < x.width ? tokens - first : 0;
#pragma unroll
    for (int i = 0; i < rows; i += kTokens)
      copy_later(reinterpret_cast<Item*>(to + i * kStride<T, width>), reinterpret_cast<const Item*>(from + i * x.token_stride), i < there);
  } else {
#pragma unroll 1
    for (int i = 0; i < rows; i += kTokens) {
      Item item{};
      for (int k = 0; k < kPackWidth<T>; ++k)
        if (first + i < tokens && at + k < x.width) item.v[k] = from[i * x.token_stride + k];
      store_pack(to + i * kStride<T, width>, item);
    }
  }
}

// How far the streamed tokens that a held one sees lie before and behind it: it sees those at its position - before up to, not including,
// its position + behind.
struct Reach {
  int before, behind;
};

// Where a task is in what it streams: meeting by meeting, and in each head by head, in tiles.
class Walk {
 public:
  __device__ Walk(const AttentionTask& task, const Meeting* meetings, int heads)
      : meetings_(meetings), meeting_(task.first_meeting), end_(meeting_ + task.meetings), heads_(heads) {}

  __device__ bool done() const { return meeting_ == end_; }
  __device__ void next(int tile) {
    offset_ += tile;
    if (offset_ < meeting().length) return;
    offset_ = 0;
    if (++head_ < heads_) return;
    head_ = 0;
    ++meeting_;
  }
  __device__ const Meeting& meeting() const { return meetings_[meeting_]; }
  __device__ int head() const { return head_; }
  __device__ int offset() const { return offset_; }
  __device__ int begin() const { return meeting().begin + offset_; }
  __device__ int tokens(int tile) const { return std::min(tile, meeting().length - offset_); }

 private:
  const Meeting* meetings_;
  int meeting_, end_, heads_, head_ = 0, offset_ = 0;
};

// Which columns the rows of a warp see in a tile of scores.
class Sight {
 public:
  __device__ Sight(const Walk& walk, int tile, const Reach& reach)
      : first_row_(walk.meeting().held_begin), end_row_(first_row_ + walk.meeting().held_length), columns_(walk.tokens(tile)) {
    const int own = walk.meeting().ahead - walk.offset() - first_row_;
    low_ = own - reach.before;
    high_ = own + reach.behind;
  }
  // Row i sees the columns from first(i) up to, not including, last(i).
  __device__ int first(int i) const { return std::max(0, low_ + i); }
  __device__ int last(int i) const { return i < first_row_ || i >= end_row_ ? 0 : std::min(columns_, high_ + i); }
  __device__ bool any(int begin, int rows) const {
    const int first = std::max(begin, first_row_), last = std::min(begin + rows, end_row_) - 1;
    return first <= last && high_ + last > 0 && low_ + first < columns_;
  }
  __device__ bool all(int begin, int rows, int columns) const {
    return begin >= first_row_ && begin + rows <= end_row_ && columns_ == columns && low_ + begin + rows <= 1 && high_ + begin >= columns;
  }

 private:
  int first_row_, end_row_, columns_, low_, high_;
};

// Streams all that the walk meets: load(walk, stage) starts loading a tile, add(walk, stage) works on one.
template <int tile, class Load, class Add>
__device__ void stream(Walk walk, const Load& load, const Add& add) {
  if (!walk.done()) load(walk, 0);
  for (int stage = 0; !walk.done(); stage ^= 1) {
    const Walk now = walk;
    walk.next(tile);
    wait_for_copies();
    __syncthreads();  // also: all are through with the other stage
    if (!walk.done()) load(walk, stage ^ 1);
    add(now, stage);
  }
  wait_for_copies();
}

// A warp's sums: 16 * slabs rows.
template <int slabs, int columns>
struct Scores {
  Sums v[slabs][columns / 8];
};

// The row, of the warp's, of the sums (slab, i).
__device__ inline int row_of(int slab, int i) { return slab * 16 + Sums::row(i); }

// c += a b^T, a [16 * slabs, width] and b [columns, width] in shared memory.
template <int width, int slabs, int columns, class T>
__device__ void multiply(Scores<slabs, columns>& c, const T* a, const T* b) {
#pragma unroll
  for (int k = 0; k < width; k += 16) {
    FragmentA<T> left[slabs];
#pragma unroll
    for (int s = 0; s < slabs; ++s) left[s] = load_a(a + s * 16 * kStride<T, width> + k, kStride<T, width>);
#pragma unroll
    for (int j = 0; j < columns; j += 16) {
      FragmentB<T> right[2];
      load_b_transposed(b + j * kStride<T, width> + k, kStride<T, width>, right);
#pragma unroll
      for (int s = 0; s < slabs; ++s)
        for (int half = 0; half < 2; ++half) multiply_add(c.v[s][j / 8 + half], left[s], right[half]);
    }
  }
}

// c += a b, a rounded to T, b [inner, columns] in shared memory, rows `stride` apart.
template <int stride, int slabs, int inner, int columns, class T>
__device__ void multiply_sums(Scores<slabs, columns>& c, const Scores<slabs, inner>& a, const T* b) {
#pragma unroll
  for (int k = 0; k < inner; k += 16) {
    FragmentA<T> left[slabs];
#pragma unroll
    for (int s = 0; s < slabs; ++s) left[s] = as_a<T>(a.v[s][k / 8], a.v[s][k / 8 + 1]);
#pragma unroll
    for (int j = 0; j < columns; j += 16) {
      FragmentB<T> right[2];
      load_b(b + k * stride + j, stride, right);
#pragma unroll
      for (int s = 0; s < slabs; ++s)
        for (int half = 0; half < 2; ++half) multiply_add(c.v[s][j / 8 + half], left[s], right[half]);
    }
  }
}

// Calls body(sum, slab, i, column) for each of the lane's.
template <int slabs, int columns, class Body>
__device__ void for_each_sum(Scores<slabs, columns>& x, const Body& body) {
#pragma unroll
  for (int s = 0; s < slabs; ++s)
#pragma unroll
    for (int j = 0; j < columns / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) body(x.v[s][j].v[i], s, i, j * 8 + Sums::column(i));
}

// What the warp's rows, from `begin` on, do not see becomes `value`.
template <int slabs, int columns>
__device__ void hide(const Sight& sight, int begin, float value, Scores<slabs, columns>& x) {
  if (sight.all(begin, slabs * 16, columns)) return;
#pragma unroll
  for (int s = 0; s < slabs; ++s)
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int row = begin + row_of(s, i), first = sight.first(row), last = sight.last(row);
#pragma unroll
      for (int j = 0; j < columns / 8; ++j)
        for (int k = 0; k < 2; ++k) {
          const int column = j * 8 + Sums::column(k);
          if (column < first || column >= last) x.v[s][j].v[i + k] = value;
        }
    }
}

// Scores times `scale`; hidden ones -infinity.
template <int slabs, int columns>
__device__ void scale_and_hide(const Sight& sight, int begin, float scale, Scores<slabs, columns>& x) {
  for_each_sum(x, [&](float& score, int, int, int) { score *= scale; });
  hide(sight, begin, -kInfinity, x);
}

// Results [B, S, H, P], in T or in the wide type.
template <class T>
struct Results {
  Heads<T> narrow;
  Heads<float> wide;  // the one there is
};
template <class T>
Results<T> results_of(const Tensor& x) {
  if (x.dtype() == DType::kFloat32) return {.narrow = {}, .wide = heads_of<float>(x)};
  return {.narrow = heads_of<T>(x), .wide = {}};
}

// A lane's rows of a warp's sums: factors for each.
template <int slabs>
struct RowValues {
  float v[slabs][2];
  __device__ float& at(int slab, int i) { return v[slab][i / 2]; }
  __device__ float at(int slab, int i) const { return v[slab][i / 2]; }
};

template <class T, int slabs, int columns, class Find>
__device__ void store_pairs(const Heads<T>& to, T* first, int rows, int width, const Scores<slabs, columns>& x, const Find& find) {
#pragma unroll
  for (int s = 0; s < slabs; ++s)
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      T* const row = first + row_of(s, i) * to.token_stride;
      const bool there = row_of(s, i) < rows;
#pragma unroll
      for (int j = 0; j < columns / 8; ++j) {
        const int column = j * 8 + Sums::column(0);
        if (!there || column >= width) continue;
        Pack<T, 2> pair;
        if (to.in_packs) {
          for (int k = 0; k < 2; ++k) pair.v[k] = static_cast<T>(find(row + column + k, x.v[s][j].v[i + k], s, i));
          store_pack(row + column, pair);
        } else {
          for (int k = 0; k < 2 && column + k < width; ++k)
            row[column + k] = static_cast<T>(find(row + column + k, x.v[s][j].v[i + k], s, i));
        }
      }
    }
}

// The warp's rows, `rows` of which are there, times a factor; what was there before, times `kept`, stays with it where it is not 0.
template <class T, int slabs, int columns>
__device__ void store(const Results<T>& to, int row, int token, int head, int column, int rows, const Scores<slabs, columns>& x,
                      const RowValues<slabs>& factor, const RowValues<slabs>& kept) {
  if (to.narrow.data)
    store_pairs(to.narrow, to.narrow.at(row, token, head) + column, rows, to.narrow.width - column, x,
                [&](const T*, float sum, int s, int i) { return sum * factor.at(s, i); });
  else
    store_pairs(to.wide, to.wide.at(row, token, head) + column, rows, to.wide.width - column, x,
                [&](const float* before, float sum, int s, int i) {
                  return sum * factor.at(s, i) + (kept.at(s, i) == 0 ? 0 : kept.at(s, i) * *before);
                });
}
template <int slabs>
__device__ RowValues<slabs> everywhere(float value) {
  RowValues<slabs> values;
  for (int s = 0; s < slabs; ++s) values.v[s][0] = values.v[s][1] = value;
  return values;
}

}  // namespace ropewalk::attention_tiles
