// Tensor cores: c += a b over 16 x 16 by 16 x 8, a warp together, sums in fp32 (PTX ISA, mma.sync.aligned.m16n8k16 and ldmatrix: which lane
// holds what). This is the one place with instructions that C++ does not know; each has its portable twin for the simulator.
//
// T = bfloat16 is one product. T = float is split into three bfloat16, each the first bits of what those before have left: six products of
// the parts give the sum to about 2^-22 of its terms, with two and a half times the rate of fp32 arithmetic. Tensor cores cut off what a
// sum has no bits for, which over thousands of products adds up, so these six are summed apart and added with rounding.
//
// Tiles lie in shared memory, rows `stride` elements apart; tiles of bfloat16 begin at 16 bytes, and stride is a multiple of 8.
// A stride of 8 more than a multiple of 64 elements keeps rows in different banks.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/tensor/bfloat16.h"

namespace ropewalk::cuda {

// This lane's part of an operand. Two neighbouring elements along k share a register.
template <class T>
struct FragmentA;  // 16 rows, k = 16
template <class T>
struct FragmentB;  // k = 16, 8 columns
template <>
struct FragmentA<bfloat16> {
  uint32_t r[4];
};
template <>
struct FragmentB<bfloat16> {
  uint32_t r[2];
};
template <>
struct FragmentA<float> {
  FragmentA<bfloat16> part[3];
};
template <>
struct FragmentB<float> {
  FragmentB<bfloat16> part[3];
};

// 16 x 8 sums, zeros at first (but not in arrays of arrays: nvcc 13.0 leaves those as they are). Element i of a lane stands at (row(i), column(i)).
struct Sums {
  float v[4] = {};
  __device__ static int row(int i) { return threadIdx.x % kWarp / 4 + i / 2 * 8; }
  __device__ static int column(int i) { return threadIdx.x % 4 * 2 + i % 2; }
};

namespace detail {

__device__ inline uint32_t pair(bfloat16 low, bfloat16 high) { return low.bits | static_cast<uint32_t>(high.bits) << 16; }

// The same of two values that are rounded.
__device__ inline uint32_t rounded_pair(float low, float high) {
#ifdef ROPEWALK_GPUSIM
  return pair(static_cast<bfloat16>(low), static_cast<bfloat16>(high));
#else
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#endif
}

// x in three bfloat16: eight bits each, which is all it has.
__device__ inline void split(float x, bfloat16 (&parts)[3]) {
  for (bfloat16& part : parts) {
    part = bfloat16::of_bits(static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16));
    x -= static_cast<float>(part);
  }
}

// Register r of each part <- the elements (x, y).
template <class Fragment>
__device__ void set(Fragment& fragment, int r, float x, float y) {
  bfloat16 of_x[3], of_y[3];
  split(x, of_x);
  split(y, of_y);
  for (int part = 0; part < 3; ++part) fragment.part[part].r[r] = pair(of_x[part], of_y[part]);
}

#ifdef ROPEWALK_GPUSIM

template <int matrices, bool transposed>
__device__ void load_matrices(uint32_t (&r)[matrices], const bfloat16* row) {
  gpusim::check_aligned(row, 16);
  const auto rows = gpusim::gather(row);
  const int lane = threadIdx.x % kWarp, first = lane / 4, second = lane % 4 * 2;
  for (int m = 0; m < matrices; ++m) {
    const auto at = [&](int i, int j) { return rows[m * 8 + i][j]; };
    r[m] = transposed ? pair(at(second, first), at(second + 1, first)) : pair(at(first, second), at(first, second + 1));
  }
}

__device__ inline float element(uint32_t word, int i) { return bfloat16::of_bits(static_cast<uint16_t>(word >> (16 * i))); }

__device__ inline void multiply_add(Sums& c, const FragmentA<bfloat16>& a, const FragmentB<bfloat16>& b) {
  const auto as = gpusim::gather(a);
  const auto bs = gpusim::gather(b);
  for (int i = 0; i < 4; ++i) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const int pair_lane = k % 8 / 2;
      sum += element(as[Sums::row(i) % 8 * 4 + pair_lane].r[Sums::row(i) / 8 + k / 8 * 2], k % 2) *
             element(bs[Sums::column(i) * 4 + pair_lane].r[k / 8], k % 2);
    }
    c.v[i] += sum;
  }
}

#else

template <int matrices, bool transposed>
__device__ void load_matrices(uint32_t (&r)[matrices], const bfloat16* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (matrices == 4 && !transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else if constexpr (matrices == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else if constexpr (!transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}

__device__ inline void multiply_add(Sums& c, const FragmentA<bfloat16>& a, const FragmentB<bfloat16>& b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])
               : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

#endif

}  // namespace detail

__device__ inline void multiply_add(Sums& c, const FragmentA<bfloat16>& a, const FragmentB<bfloat16>& b) { detail::multiply_add(c, a, b); }
// The least products first.
__device__ inline void multiply_add(Sums& c, const FragmentA<float>& a, const FragmentB<float>& b) {
  Sums sum;
  for (int rank = 2; rank >= 0; --rank)
    for (int part = 0; part <= rank; ++part) detail::multiply_add(sum, a.part[part], b.part[rank - part]);
  for (int i = 0; i < 4; ++i) c.v[i] += sum.v[i];
}

// a[row][k] in memory.
__device__ inline FragmentA<bfloat16> load_a(const bfloat16* tile, int stride) {
  const int lane = threadIdx.x % kWarp;
  FragmentA<bfloat16> a;
  detail::load_matrices<4, false>(a.r, tile + lane % 16 * stride + lane / 16 * 8);
  return a;
}
// a[k][row] in memory: the other operand's layout.
__device__ inline FragmentA<bfloat16> load_a_transposed(const bfloat16* tile, int stride) {
  const int lane = threadIdx.x % kWarp;
  FragmentA<bfloat16> a;
  detail::load_matrices<4, true>(a.r, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
  return a;
}
// b[k][column] in memory.
__device__ inline FragmentB<bfloat16> load_b(const bfloat16* tile, int stride) {
  FragmentB<bfloat16> b;
  detail::load_matrices<2, true>(b.r, tile + threadIdx.x % 16 * stride);
  return b;
}
// b[column][k] in memory.
__device__ inline FragmentB<bfloat16> load_b_transposed(const bfloat16* tile, int stride) {
  const int lane = threadIdx.x % 16;
  FragmentB<bfloat16> b;
  detail::load_matrices<2, false>(b.r, tile + lane % 8 * stride + lane / 8 * 8);
  return b;
}

// Two neighbours at a time, columns 0 to 7 and 8 to 15.
__device__ inline void load_b(const bfloat16* tile, int stride, FragmentB<bfloat16> (&b)[2]) {
  const int lane = threadIdx.x % kWarp;
  uint32_t r[4];
  detail::load_matrices<4, true>(r, tile + lane % 16 * stride + lane / 16 * 8);
  for (int i = 0; i < 4; ++i) b[i / 2].r[i % 2] = r[i];
}
__device__ inline void load_b_transposed(const bfloat16* tile, int stride, FragmentB<bfloat16> (&b)[2]) {
  const int lane = threadIdx.x % kWarp;
  uint32_t r[4];
  detail::load_matrices<4, false>(r, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
  for (int i = 0; i < 4; ++i) b[i / 2].r[i % 2] = r[i];
}

// The same of fp32. `at(row, k)` and `at(k, column)` read an element.
template <class At>
__device__ FragmentA<float> split_a(const At& at) {
  const int lane = threadIdx.x % kWarp, row = lane / 4, k = lane % 4 * 2;
  FragmentA<float> a;
  for (int r = 0; r < 4; ++r) detail::set(a, r, at(row + r % 2 * 8, k + r / 2 * 8), at(row + r % 2 * 8, k + r / 2 * 8 + 1));
  return a;
}
template <class At>
__device__ FragmentB<float> split_b(const At& at) {
  const int lane = threadIdx.x % kWarp, column = lane / 4, k = lane % 4 * 2;
  FragmentB<float> b;
  for (int r = 0; r < 2; ++r) detail::set(b, r, at(k + r * 8, column), at(k + r * 8 + 1, column));
  return b;
}
__device__ inline FragmentA<float> load_a(const float* tile, int stride) {
  return split_a([=](int row, int k) { return tile[row * stride + k]; });
}
__device__ inline FragmentA<float> load_a_transposed(const float* tile, int stride) {
  return split_a([=](int row, int k) { return tile[k * stride + row]; });
}
__device__ inline FragmentB<float> load_b(const float* tile, int stride) {
  return split_b([=](int k, int column) { return tile[k * stride + column]; });
}
__device__ inline FragmentB<float> load_b_transposed(const float* tile, int stride) {
  return split_b([=](int k, int column) { return tile[column * stride + k]; });
}
__device__ inline void load_b(const float* tile, int stride, FragmentB<float> (&b)[2]) {
  for (int i = 0; i < 2; ++i) b[i] = load_b(tile + 8 * i, stride);
}
__device__ inline void load_b_transposed(const float* tile, int stride, FragmentB<float> (&b)[2]) {
  for (int i = 0; i < 2; ++i) b[i] = load_b_transposed(tile + 8 * i * stride, stride);
}

// Sums of one product as the left operand of the next, rounded to T: columns 0 to 7 from `low`, 8 to 15 from `high`.
template <class T>
__device__ FragmentA<T> as_a(const Sums& low, const Sums& high) {
  FragmentA<T> a;
  for (int r = 0; r < 4; ++r) {
    const Sums& half = r < 2 ? low : high;
    const float x = half.v[r % 2 * 2], y = half.v[r % 2 * 2 + 1];
    if constexpr (std::is_same_v<T, float>)
      detail::set(a, r, x, y);
    else
      a.r[r] = detail::rounded_pair(x, y);
  }
  return a;
}

}  // namespace ropewalk::cuda
