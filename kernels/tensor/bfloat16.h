// bfloat16: the upper half of a float. A storage format here; arithmetic happens in float. constexpr: device code calls it too.
#pragma once

#include <bit>
#include <cstdint>

namespace ropewalk {

struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  static constexpr bfloat16 of_bits(uint16_t bits) {
    bfloat16 value;
    value.bits = bits;
    return value;
  }
  // Rounds to nearest, ties to even; keeps a NaN a NaN.
  constexpr explicit bfloat16(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = word + (0x7fffu + ((word >> 16) & 1u)), quiet = word | 0x400000u;
    bits = static_cast<uint16_t>((value == value ? rounded : quiet) >> 16);
  }
  constexpr operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bfloat16) == 2);

}  // namespace ropewalk
