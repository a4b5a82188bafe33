// The product of a block: a tile of C = A B on tensor cores, each warp with a part of it in its registers. The operands' tiles go through
// shared memory slice by slice, the next already on its way from memory while one is multiplied.
//
// fp32 elements are split into three bfloat16 (mma.cuh) on their way into shared memory: a product of fp32 with bf16 costs three products
// of bf16, one of fp32 with fp32 six. Where the result is rounded to bf16 two parts do, which leave 2^-16 of an element out: three
// products.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/tensor/tensor.h"

namespace ropewalk::cuda {

// An operand where it lies in memory. What is outside of it counts as zero.
template <class T>
struct Operand {
  const T* data;
  int64_t stride, rows, width;
  const int* at = nullptr;  // where given, row i is at[i] strides from data
};

template <class T>
bool in_packs(const Operand<T>& x) {
  return packs(x.data, x.stride, kPackWidth<T>) && x.width % kPackWidth<T> == 0;
}

template <class T>
Operand<T> operand_of(const Tensor& x, const char* what) {
  const Rows<T> rows = rows_of<T>(x, what);
  return {.data = rows.data, .stride = rows.stride, .rows = rows.count, .width = rows.width};
}

// How the terms of a sum lie in an operand: along its rows, as both of x weight^T have them, or across.
enum class Terms { kAlong, kAcross };

// A block's part of C, the terms that one slice has, and how many warps share the tile out.
struct TileShape {
  int rows, columns, depth, warps_down, warps_across;
  constexpr int threads() const { return kWarp * warps_down * warps_across; }
};

// Of products that are large both ways.
template <class T>
constexpr TileShape kLargeTile =
    std::is_same_v<T, bfloat16> ? TileShape{.rows = 128, .columns = 256, .depth = 32, .warps_down = 2, .warps_across = 4}
                                : TileShape{.rows = 128, .columns = 128, .depth = 16, .warps_down = 4, .warps_across = 2};

// A slice of an operand: `extent` rows or columns of C by `depth` terms. An fp32 element is split into `parts`.
template <class T, Terms terms, int extent, int depth, int threads, bool packed, int parts>
class OperandSlice {
 public:
  static constexpr int kParts = std::is_same_v<T, bfloat16> ? 1 : parts;
  static constexpr int kRows = terms == Terms::kAlong ? extent : depth, kColumns = terms == Terms::kAlong ? depth : extent;
  static constexpr int kStride = kColumns + 8;
  static constexpr int kPart = kRows * kStride, kElements = kParts * kPart;  // of shared memory

  // Memory -> registers: from row or column `first` of C and from `term` on.
  __device__ void fetch(const Operand<T>& from, int64_t first, int64_t term) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i)
      held_[i] = load(from, (terms == Terms::kAlong ? first : term) + row(i), (terms == Terms::kAlong ? term : first) + column(i));
  }

  // Registers -> shared memory.
  __device__ void store(bfloat16* slice) const {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      bfloat16* const to = slice + row(i) * kStride + column(i);
      if constexpr (kParts == 1) {
        store_pack(to, held_[i]);
      } else {
        Pack<T, kPack> rest = held_[i];
        for (int part = 0; part < kParts; ++part) {
          Pack<bfloat16, kPack> rounded;
          for (int k = 0; k < kPack; ++k) {
            rounded.v[k] = static_cast<bfloat16>(rest.v[k]);
            rest.v[k] -= static_cast<float>(rounded.v[k]);
          }
          store_pack(to + part * kPart, rounded);
        }
      }
    }
  }

  __device__ static FragmentA<bfloat16> as_a(const bfloat16* part, int first, int term) {
    if constexpr (terms == Terms::kAlong)
      return load_a(part + first * kStride + term, kStride);
    else
      return load_a_transposed(part + term * kStride + first, kStride);
  }
  __device__ static FragmentB<bfloat16> as_b(const bfloat16* part, int first, int term) {
    if constexpr (terms == Terms::kAlong)
      return load_b_transposed(part + first * kStride + term, kStride);
    else
      return load_b(part + term * kStride + first, kStride);
  }

 private:
  static constexpr int kPack = kPackWidth<T>, kPacks = kRows * kColumns / (kPack * threads);
  static_assert(kPacks * kPack * threads == kRows * kColumns && kColumns % kPack == 0);

  __device__ static int row(int i) { return (i * threads + static_cast<int>(threadIdx.x)) * kPack / kColumns; }
  __device__ static int column(int i) { return (i * threads + static_cast<int>(threadIdx.x)) * kPack % kColumns; }

  __device__ static Pack<T, kPack> load(const Operand<T>& from, int64_t row, int64_t column) {
    Pack<T, kPack> pack{};
    if (row >= from.rows || column >= from.width) return pack;
    const T* const source = from.data + (from.at ? from.at[row] : row) * from.stride + column;
    if constexpr (packed) {
      pack = load_pack<kPack>(source);
    } else {
      for (int k = 0; k < kPack; ++k)
        if (column + k < from.width) pack.v[k] = source[k];
    }
    return pack;
  }

  Pack<T, kPack> held_[kPacks];
};

// `packed`: both operands hold in_packs.
template <TileShape shape, class A, Terms a_terms, class B, Terms b_terms, bool packed, int parts = 3>
class TileProduct {
  using SliceA = OperandSlice<A, a_terms, shape.rows, shape.depth, shape.threads(), packed, parts>;
  using SliceB = OperandSlice<B, b_terms, shape.columns, shape.depth, shape.threads(), packed, parts>;
  static constexpr int kElements = SliceA::kElements + SliceB::kElements;  // of shared memory a slice
  static constexpr int kRowsAWarp = shape.rows / shape.warps_down, kColumnsAWarp = shape.columns / shape.warps_across;
  static constexpr int kDown = kRowsAWarp / 16, kAcross = kColumnsAWarp / 8;  // fragments of a warp

 public:
  static constexpr size_t kShared = 2 * kElements;  // elements of `room`

  // Adds the terms [begin, end) to the tile that begins at (row, column). Where they lie along rows, begin is a multiple of a pack; end is
  // whole slices away or has no term behind it. Ends with a barrier.
  __device__ void add(const Operand<A>& a, const Operand<B>& b, int64_t row, int64_t column, int64_t begin, int64_t end, bfloat16* room) {
    if (begin >= end) return;
    SliceA next_a;
    SliceB next_b;
    const auto fetch = [&](int64_t term) {
      next_a.fetch(a, row, term);
      next_b.fetch(b, column, term);
    };
    const auto store = [&](bfloat16* slice) {
      next_a.store(slice);
      next_b.store(slice + SliceA::kElements);
    };
    fetch(begin);
    store(room);
    __syncthreads();
    int turn = 0;
    for (int64_t term = begin; term < end; term += shape.depth, turn ^= 1) {
      const bool more = term + shape.depth < end;
      if (more) fetch(term + shape.depth);
      multiply(room + turn * kElements);
      if (more) store(room + (turn ^ 1) * kElements);
      __syncthreads();
    }
  }

  __device__ void clear() {
#pragma unroll
    for (auto& of_row : sums_)
#pragma unroll
      for (Sums& sums : of_row) sums = Sums{};
  }

  // This thread's part of the tile: rows by columns, neighbours in pairs.
  static constexpr int kRows = 2 * kDown, kColumns = 2 * kAcross;
  __device__ static int row(int i) { return first_row() + i / 2 * 16 + Sums::row(i % 2 * 2); }
  __device__ static int column(int j) { return first_column() + j / 2 * 8 + Sums::column(j % 2); }
  __device__ float& at(int i, int j) { return sums_[i / 2][j / 2].v[i % 2 * 2 + j % 2]; }

 private:
  // Of this warp's part.
  __device__ static int first_row() { return static_cast<int>(threadIdx.x) / kWarp / shape.warps_across * kRowsAWarp; }
  __device__ static int first_column() { return static_cast<int>(threadIdx.x) / kWarp % shape.warps_across * kColumnsAWarp; }

  __device__ void multiply(const bfloat16* slice) {
    constexpr int kPartsA = SliceA::kParts, kPartsB = SliceB::kParts, kMostParts = kPartsA > kPartsB ? kPartsA : kPartsB;
#pragma unroll
    for (int term = 0; term < shape.depth; term += 16) {
      FragmentA<bfloat16> a[kPartsA][kDown];
      FragmentB<bfloat16> b[kPartsB][kAcross];
#pragma unroll
      for (int part = 0; part < kPartsA; ++part)
#pragma unroll
        for (int m = 0; m < kDown; ++m) a[part][m] = SliceA::as_a(slice + part * SliceA::kPart, first_row() + m * 16, term);
#pragma unroll
      for (int part = 0; part < kPartsB; ++part)
#pragma unroll
        for (int n = 0; n < kAcross; ++n)
          b[part][n] = SliceB::as_b(slice + SliceA::kElements + part * SliceB::kPart, first_column() + n * 8, term);
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
        if constexpr (kMostParts == 1) {
#pragma unroll
          for (int m = 0; m < kDown; ++m) multiply_add(sums_[m][n], a[0][m], b[0][n]);
        } else {
          // The least products first, and added with rounding (mma.cuh).
          Sums sums[kDown];
#pragma unroll
          for (int rank = kMostParts - 1; rank >= 0; --rank)
#pragma unroll
            for (int part = 0; part < kPartsA; ++part)
#pragma unroll
              for (int m = 0; m < kDown; ++m)
                if (rank - part >= 0 && rank - part < kPartsB) multiply_add(sums[m], a[part][m], b[rank - part][n]);
#pragma unroll
          for (int m = 0; m < kDown; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums_[m][n].v[i] += sums[m].v[i];
        }
      }
    }
  }

  Sums sums_[kDown][kAcross];
};

}  // namespace ropewalk::cuda
