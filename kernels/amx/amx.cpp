#include "kernels/amx/amx.h"

#include <immintrin.h>

#include <algorithm>

// Only what carries this may use AMX or AVX-512: the rest of this file is compiled for any x86-64.
#define ROPEWALK_AMX [[gnu::target("arch=x86-64-v4,avx512bf16,prfchw,amx-tile,amx-bf16")]]

namespace ropewalk::amx {
namespace {

// ---- packing

struct alignas(64) Block {
  uint16_t x[kPanel][kTerms];  // bf16; not initialised
};

ROPEWALK_AMX inline __mmask32 first(int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }

ROPEWALK_AMX inline __m512i round_pair(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

ROPEWALK_AMX inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// The planes of up to 32 elements.
template <int kPlanes>
ROPEWALK_AMX inline void row_of(const bfloat16* x, __mmask32 columns, __m512i* planes) {
  static_assert(kPlanes == 1);
  planes[0] = _mm512_maskz_loadu_epi16(columns, x);
}

// Each plane is what the ones before left, rounded; the differences are exact.
template <int kPlanes>
ROPEWALK_AMX inline void row_of(const float* x, __mmask32 columns, __m512i* planes) {
  __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(columns), x);
  __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(columns >> 16), x + 16);
  for (int plane = 0; plane < kPlanes; ++plane) {
    planes[plane] = round_pair(low, high);
    low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(planes[plane])));
    high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(planes[plane], 1)));
  }
}

// Up to 32 rows of x, side by side in blocks of 32 columns, the planes of a block behind each other; zeros fill the last rows and columns.
// Memory is read along its rows, which is all that its prefetchers understand.
template <int kPlanes, class T>
ROPEWALK_AMX inline void copy_rows(int64_t rows, int64_t columns, const T* x, int64_t stride, void* to) {
  auto* const row = static_cast<__m512i*>(to);
  for (int64_t i = 0; i < kPanel; ++i) {
    for (int64_t j = 0, block = 0; j < columns; j += 32, ++block) {
      __m512i planes[kPlanes] = {};
      if (i < rows) row_of<kPlanes>(x + i * stride + j, first(columns - j), planes);
      for (int plane = 0; plane < kPlanes; ++plane) _mm512_storeu_si512(row + (block * kPlanes + plane) * kPanel + i, planes[plane]);
    }
  }
}

ROPEWALK_AMX inline __m128i sixteen_bytes(const uint16_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }

// Four times 16 bytes, from rows `step` apart.
ROPEWALK_AMX inline __m512i lanes(const uint16_t* at, int64_t step) {
  __m512i x = _mm512_castsi128_si512(sixteen_bytes(at));
  x = _mm512_inserti32x4(x, sixteen_bytes(at + step), 1);
  x = _mm512_inserti32x4(x, sixteen_bytes(at + 2 * step), 2);
  return _mm512_inserti32x4(x, sixteen_bytes(at + 3 * step), 3);
}

// to[j][i] = block[i][j]. Each 16-byte lane holds 8 columns of one row; three rounds of unpacking transpose 8 rows by 8 columns in each
// lane, and the lanes hold rows 8 apart, so that a register ends as a whole row of the result.
ROPEWALK_AMX inline void transpose(const Block& block, bfloat16* to) {
  for (int j = 0; j < kTerms; j += 8) {
    __m512i x[8], y[8];
    for (int i = 0; i < 8; ++i) x[i] = lanes(&block.x[i][j], 8 * kTerms);
    for (int i = 0; i < 8; i += 2) {
      y[i] = _mm512_unpacklo_epi16(x[i], x[i + 1]);
      y[i + 1] = _mm512_unpackhi_epi16(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      for (int h = 0; h < 2; ++h) {
        x[i + 2 * h] = _mm512_unpacklo_epi32(y[i + h], y[i + 2 + h]);
        x[i + 2 * h + 1] = _mm512_unpackhi_epi32(y[i + h], y[i + 2 + h]);
      }
    }
    for (int i = 0; i < 4; ++i) {
      _mm512_storeu_si512(to + (j + 2 * i) * kTerms, _mm512_unpacklo_epi64(x[i], x[i + 4]));
      _mm512_storeu_si512(to + (j + 2 * i + 1) * kTerms, _mm512_unpackhi_epi64(x[i], x[i + 4]));
    }
  }
}

// Rows of a block are terms: two tiles of b. Unpacking leaves columns 0-3, 8-11, 16-19, 24-27 and the rest; the permutations put the lanes
// in order.
ROPEWALK_AMX inline void interleave(const Block& block, bfloat16* to) {
  const __m512i lower = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), upper = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int p = 0; p < kTerms / 2; ++p) {
    const __m512i even = _mm512_load_si512(block.x[2 * p]), odd = _mm512_load_si512(block.x[2 * p + 1]);
    const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
    _mm512_storeu_si512(to + p * 32, _mm512_permutex2var_epi64(low, lower, high));
    _mm512_storeu_si512(to + kStep / 2 + p * 32, _mm512_permutex2var_epi64(low, upper, high));
  }
}

// Columns of a block are terms: two tiles of b, which are transposes in pairs of terms. As transpose(), with 4 by 4 pairs in a lane.
ROPEWALK_AMX inline void transpose_pairs(const Block& block, bfloat16* to) {
  for (int tile = 0; tile < 2; ++tile) {
    for (int p = 0; p < kTerms / 2; p += 4) {
      __m512i x[4], y[4];
      for (int i = 0; i < 4; ++i) x[i] = lanes(&block.x[16 * tile + i][2 * p], 4 * kTerms);
      for (int i = 0; i < 4; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
      }
      bfloat16* const row = to + tile * kStep / 2 + p * 32;
      for (int i = 0; i < 2; ++i) {
        _mm512_storeu_si512(row + 2 * i * 32, _mm512_unpacklo_epi64(y[i], y[i + 2]));
        _mm512_storeu_si512(row + (2 * i + 1) * 32, _mm512_unpackhi_epi64(y[i], y[i + 2]));
      }
    }
  }
}

template <int kPlanes>
struct Strip {
  static constexpr int64_t kBlocks = kPlanes == 1 ? 16 : 8, kColumns = kBlocks * 32;
  Block blocks[kBlocks][kPlanes];  // 32 or 48 KiB
};

// Up to 32 rows of x: copied to L1, then laid out block by block, a block `step` elements behind the other.
template <int kPlanes, auto kLayOut, class T>
ROPEWALK_AMX inline void pack_strip(int64_t rows, int64_t columns, const T* x, int64_t stride, Strip<kPlanes>& strip, bfloat16* to,
                                    int64_t step) {
  copy_rows<kPlanes>(rows, columns, x, stride, strip.blocks);
  for (int64_t block = 0; block * 32 < columns; ++block)
    for (int plane = 0; plane < kPlanes; ++plane) kLayOut(strip.blocks[block][plane], to + block * step + plane * kStep);
}

// kRowsAreTerms: the rows of x are terms, and the blocks of a strip are the same step of neighbouring panels; else they are the steps of
// one panel.
template <int kPlanes, bool kRowsAreTerms, auto kLayOut, class T>
ROPEWALK_AMX inline void pack(int64_t extent, int64_t k, const T* x, int64_t stride, bfloat16* to) {
  const int64_t step = kPlanes * kStep, panel = steps(k) * step, along_rows = kRowsAreTerms ? step : panel,
                along_columns = kRowsAreTerms ? panel : step;
  const int64_t rows = kRowsAreTerms ? k : extent, columns = kRowsAreTerms ? extent : k;
  Strip<kPlanes> strip;
  for (int64_t i = 0; i < rows; i += 32) {
    for (int64_t j = 0; j < columns; j += strip.kColumns) {
      const int64_t height = std::min<int64_t>(32, rows - i), width = std::min(strip.kColumns, columns - j);
      pack_strip<kPlanes, kLayOut>(height, width, x + i * stride + j, stride, strip, to + i / 32 * along_rows + j / 32 * along_columns,
                                   along_columns);
    }
  }
}

// ---- multiplying

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig eight_full_tiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  return config;
}

constexpr TileConfig kEightFullTiles = eight_full_tiles();

// Functions of their own: g++ 12 gives constructors no target.
ROPEWALK_AMX void set_up() { _tile_loadconfig(&kEightFullTiles); }
ROPEWALK_AMX void release() { _tile_release(); }

struct alignas(64) Sums {
  float x[kPanel][kPanel];
};

// The tiles: 0 to 3 hold sums (of rows 0-15 and 16-31, by columns 0-15 and 16-31), 4 and 5 a step of a, 6 and 7 a step of b. The intrinsics
// do not tell the compiler what memory they read.
ROPEWALK_AMX inline void load_sums(const float* from, int64_t stride) {
  asm volatile("" ::: "memory");
  _tile_loadd(0, from, stride * 4);
  _tile_loadd(1, from + 16, stride * 4);
  _tile_loadd(2, from + 16 * stride, stride * 4);
  _tile_loadd(3, from + 16 * stride + 16, stride * 4);
}

ROPEWALK_AMX inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

ROPEWALK_AMX inline void store_sums(float* to, int64_t stride) {
  _tile_stored(0, to, stride * 4);
  _tile_stored(1, to + 16, stride * 4);
  _tile_stored(2, to + 16 * stride, stride * 4);
  _tile_stored(3, to + 16 * stride + 16, stride * 4);
}

// A step of a plane is two tiles, of rows 0-15 and 16-31 of a (columns of b). Those of b are loaded past L1 (the hint T1): they pass by
// once while the panel of a stays there, of which the usual policy would leave nothing.
ROPEWALK_AMX inline void load_a(const bfloat16* a) {
  _tile_loadd(4, a, 64);
  _tile_loadd(5, a + kStep / 2, 64);
}

ROPEWALK_AMX inline void load_b(const bfloat16* b) {
  _tile_stream_loadd(6, b, 64);
  _tile_stream_loadd(7, b + kStep / 2, 64);
}

// The sums += a step of a times a step of b. Each loads what comes next as soon as a tile has been read for the last time.
ROPEWALK_AMX inline void add_step() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

ROPEWALK_AMX inline void add_step_then_load(const bfloat16* a, const bfloat16* b) {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(4, a, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_stream_loadd(6, b, 64);
  _tile_dpbf16ps(3, 5, 7);
  _tile_loadd(5, a + kStep / 2, 64);
  _tile_stream_loadd(7, b + kStep / 2, 64);
}

ROPEWALK_AMX inline void add_step_then_load_a(const bfloat16* a) {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(4, a, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
  _tile_loadd(5, a + kStep / 2, 64);
}

ROPEWALK_AMX inline void add_step_then_load_b(const bfloat16* b) {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(2, 5, 6);
  _tile_stream_loadd(6, b, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(3, 5, 7);
  _tile_stream_loadd(7, b + kStep / 2, 64);
}

// The products of a step's planes but for the last, which is 0 x 2 of three. From one to the next one operand stays.
template <int kPlanes>
ROPEWALK_AMX inline void add_first_planes(const bfloat16* a, const bfloat16* b) {
  if constexpr (kPlanes == kPlanesOfFp32) {  // first 2 x 0
    add_step_then_load_a(a + kStep);
    add_step_then_load_b(b + kStep);      // 1 x 0
    add_step_then_load_a(a);              // 1 x 1
    add_step_then_load_b(b);              // 0 x 1
    add_step_then_load_b(b + 2 * kStep);  // 0 x 0
  }
}

// The sums += a panel of a times a panel of b.
template <int kPlanes>
ROPEWALK_AMX inline void add_panels(int64_t steps, const bfloat16* a, const bfloat16* b) {
  constexpr int64_t kWholeStep = kPlanes * kStep, kFirst = (kPlanes - 1) * kStep;
  if (steps == 0) return;
  asm volatile("" ::: "memory");
  load_a(a + kFirst);
  load_b(b);
  for (int64_t s = 1; s < steps; ++s, a += kWholeStep, b += kWholeStep) {
    add_first_planes<kPlanes>(a, b);
    add_step_then_load(a + kWholeStep + kFirst, b + kWholeStep);
  }
  add_first_planes<kPlanes>(a, b);
  add_step();
}

// The corner [rows, columns] of a block, from and to memory.
ROPEWALK_AMX inline void load_corner(int64_t rows, int64_t columns, const float* from, int64_t stride, Sums& sums) {
  const __mmask32 mask = first(columns);
  for (int64_t i = 0; i < rows; ++i) {
    _mm512_store_ps(sums.x[i], _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from + i * stride));
    _mm512_store_ps(sums.x[i] + 16, _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + i * stride + 16));
  }
}

ROPEWALK_AMX inline void store_corner(int64_t rows, int64_t columns, const Sums& sums, float* to, int64_t stride) {
  const __mmask32 mask = first(columns);
  for (int64_t i = 0; i < rows; ++i) {
    _mm512_mask_storeu_ps(to + i * stride, static_cast<__mmask16>(mask), _mm512_load_ps(sums.x[i]));
    _mm512_mask_storeu_ps(to + i * stride + 16, static_cast<__mmask16>(mask >> 16), _mm512_load_ps(sums.x[i] + 16));
  }
}

ROPEWALK_AMX inline void store_corner(int64_t rows, int64_t columns, const Sums& sums, bfloat16* to, int64_t stride) {
  const __mmask32 mask = first(columns);
  for (int64_t i = 0; i < rows; ++i)
    _mm512_mask_storeu_epi16(to + i * stride, mask, round_pair(_mm512_load_ps(sums.x[i]), _mm512_load_ps(sums.x[i] + 16)));
}

// Asks for the lines that a block of c will be stored to, so that they come while its products are computed.
template <class C>
ROPEWALK_AMX inline void prefetch_corner(int64_t rows, const C* c, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i) __builtin_prefetch(c + i * stride, 1);
}

// The block of c whose corner is (i, j); the panels of a and b are its own.
template <int kPlanes, class C>
ROPEWALK_AMX inline void multiply_block(const Product& p, int64_t i, int64_t j, const bfloat16* a, const bfloat16* b, C* c,
                                        int64_t stride) {
  const int64_t rows = std::min(kPanel, p.m - i), columns = std::min(kPanel, p.n - j);
  const bool whole = rows == kPanel && columns == kPanel;
  const float* const sum = p.sum ? p.sum + i * p.sum_stride + j : nullptr;
  Sums sums;
  if (!sum) {
    zero_sums();
  } else if (whole) {
    load_sums(sum, p.sum_stride);
  } else {
    load_corner(rows, columns, sum, p.sum_stride, sums);
    load_sums(sums.x[0], kPanel);
  }
  if constexpr (std::is_same_v<C, bfloat16>) prefetch_corner(rows, c + i * stride + j, stride);
  add_panels<kPlanes>(steps(p.k), a, b);
  if constexpr (std::is_same_v<C, float>)
    if (whole) return store_sums(c + i * stride + j, stride);
  store_sums(sums.x[0], kPanel);
  store_corner(rows, columns, sums, c + i * stride + j, stride);
}

}  // namespace

template <int kPlanes, class T>
ROPEWALK_AMX void pack_a(int64_t m, int64_t k, const T* x, int64_t stride, bfloat16* to) {
  for (int64_t i = 0; i < m; i += kPanel, to += steps(k) * kPlanes * kStep)
    copy_rows<kPlanes>(std::min(kPanel, m - i), k, x + i * stride, stride, to);
}

template <int kPlanes, class T>
ROPEWALK_AMX void pack_a_transposed(int64_t m, int64_t k, const T* x, int64_t stride, bfloat16* to) {
  pack<kPlanes, true, transpose>(m, k, x, stride, to);
}

template <int kPlanes, class T>
ROPEWALK_AMX void pack_b(int64_t k, int64_t n, const T* x, int64_t stride, bfloat16* to) {
  pack<kPlanes, true, interleave>(n, k, x, stride, to);
}

template <int kPlanes, class T>
ROPEWALK_AMX void pack_b_transposed(int64_t k, int64_t n, const T* x, int64_t stride, bfloat16* to) {
  pack<kPlanes, false, transpose_pairs>(n, k, x, stride, to);
}

#define ROPEWALK_PACKING(kPlanes, T)                                                        \
  template void pack_a<kPlanes>(int64_t, int64_t, const T*, int64_t, bfloat16*);            \
  template void pack_a_transposed<kPlanes>(int64_t, int64_t, const T*, int64_t, bfloat16*); \
  template void pack_b<kPlanes>(int64_t, int64_t, const T*, int64_t, bfloat16*);            \
  template void pack_b_transposed<kPlanes>(int64_t, int64_t, const T*, int64_t, bfloat16*)

ROPEWALK_PACKING(kPlanesOfBf16, bfloat16);
ROPEWALK_PACKING(kPlanesOfBf16, float);
ROPEWALK_PACKING(kPlanesOfFp32, float);

Tiles::Tiles() { set_up(); }

Tiles::~Tiles() { release(); }

template <int kPlanes, class C>
ROPEWALK_AMX void multiply(const Product& p, C* c, int64_t c_stride) {
  const int64_t panel = steps(p.k) * kPlanes * kStep;
  for (int64_t i = 0; i < p.m; i += kPanel)  // columns inside: c is written along its rows, which memory and its pages like best
    for (int64_t j = 0; j < p.n; j += kPanel)
      multiply_block<kPlanes>(p, i, j, p.a + i / kPanel * panel, p.b + j / kPanel * panel, c, c_stride);
}

template void multiply<kPlanesOfBf16>(const Product&, float*, int64_t);
template void multiply<kPlanesOfBf16>(const Product&, bfloat16*, int64_t);
template void multiply<kPlanesOfFp32>(const Product&, float*, int64_t);

}  // namespace ropewalk::amx
