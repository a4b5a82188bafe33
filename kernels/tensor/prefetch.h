// Fetching ahead by hand, where rows lie too far apart for the hardware to see a pattern: a slice of a wider projection.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ropewalk {

// Asks for x[0, n) to be in the second cache soon, to be read, or, where T is not const, to be stored. x need not exist.
template <class T>
[[gnu::always_inline]] inline void prefetch(int64_t n, T* x) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(x + i, std::is_const_v<T> ? 0 : 1, 2);
}

}  // namespace ropewalk
