// Fetching ahead by hand, where rows lie too far apart for the hardware to see a pattern: a slice of a wider projection.
#pragma once

#include <cstdint>

namespace ropewalk {

// Asks for x[0, n) to be in the second cache soon. x need not exist.
template <class T>
[[gnu::always_inline]] inline void prefetch(int64_t n, const T* x) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(x + i, 0, 2);
}

}  // namespace ropewalk
