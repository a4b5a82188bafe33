// An order of [0, count) as a keyed bijection, so that no list of it need be kept.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "kernels/tensor/philox.h"

namespace ropewalk {

// A Feistel network (Luby and Rackoff, 1988) over the bits that count needs, walked until it falls below count (Black and Rogaway, 2002,
// "Ciphers with arbitrary finite domains"): fewer than two walks on average.
class Permutation {
 public:
  // The identity.
  explicit Permutation(int64_t count) : count_(count) {}
  // The index-th of the orders that `keys` has.
  Permutation(int64_t count, const Philox& keys, int64_t index) : count_(count), keyed_(true) {
    const int bits = std::bit_width(static_cast<uint64_t>(count > 1 ? count - 1 : 1));
    low_bits_ = (bits + 1) / 2;
    low_mask_ = (uint64_t{1} << low_bits_) - 1;
    high_mask_ = (uint64_t{1} << (bits - low_bits_)) - 1;
    for (size_t r = 0; r < kRounds; ++r) keys_[r] = keys.integer(static_cast<uint64_t>(index) * kRounds + r);
  }

  int64_t count() const { return count_; }
  int64_t operator()(int64_t i) const {
    if (!keyed_) return i;
    auto x = static_cast<uint64_t>(i);
    do x = permuted(x);
    while (x >= static_cast<uint64_t>(count_));
    return static_cast<int64_t>(x);
  }

 private:
  static constexpr size_t kRounds = 8;

  uint64_t permuted(uint64_t x) const {
    uint64_t low = x & low_mask_, high = x >> low_bits_;
    for (size_t r = 0; r < kRounds; r += 2) {
      high ^= mixed(low ^ keys_[r]) & high_mask_;
      low ^= mixed(high ^ keys_[r + 1]) & low_mask_;
    }
    return high << low_bits_ | low;
  }
  // The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
  static uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  }

  int64_t count_;
  bool keyed_ = false;
  int low_bits_ = 0;
  uint64_t low_mask_ = 0, high_mask_ = 0;
  std::array<uint64_t, kRounds> keys_{};
};

}  // namespace ropewalk
