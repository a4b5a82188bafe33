// Philox4x32-10 (Salmon et al., SC'11, "Parallel random numbers: as easy as 1, 2, 3"): random numbers as a pure function of (key, index),
// so that any rank computes any element's number without having computed those before it. constexpr: device code calls it too.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace ropewalk {

class Philox {
 public:
  constexpr Philox(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  // A stream named by text: a parameter's global name, "documents", ...
  Philox(uint64_t seed, std::string_view stream) : Philox(seed, hash(stream)) {}

  constexpr std::array<uint32_t, 4> words(uint64_t index) const {
    std::array<uint32_t, 4> x = {low(index), high(index), low(stream_), high(stream_)};
    uint32_t key0 = low(seed_), key1 = high(seed_);
    for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
      const uint64_t product0 = 0xD2511F53ull * x[0], product1 = 0xCD9E8D57ull * x[2];
      x = {high(product1) ^ x[1] ^ key0, low(product1), high(product0) ^ x[3] ^ key1, low(product0)};
    }
    return x;
  }

  constexpr uint64_t integer(uint64_t index) const {
    const auto x = words(index);
    return uint64_t{x[1]} << 32 | x[0];
  }
  // In [0, 1), with 53 random bits.
  constexpr double uniform(uint64_t index) const { return static_cast<double>(integer(index) >> 11) * 0x1.0p-53; }
  // Standard normal by Box and Muller; uses all four words of one index.
  double normal(uint64_t index) const {
    const auto x = words(index);
    const double u = (static_cast<double>((uint64_t{x[1]} << 32 | x[0]) >> 11) + 1) * 0x1.0p-53;  // in (0, 1]
    const double v = static_cast<double>((uint64_t{x[3]} << 32 | x[2]) >> 11) * 0x1.0p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }

  // FNV-1a, 64 bits.
  static constexpr uint64_t hash(std::string_view text) {
    uint64_t h = 0xcbf29ce484222325ull;
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    return h;
  }

 private:
  static constexpr uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
  static constexpr uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

  uint64_t seed_, stream_;
};

}  // namespace ropewalk
