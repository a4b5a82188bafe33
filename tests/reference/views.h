// Definitions of the views over plain row-major vectors.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk::reference {

// Columns [begin, begin + length) of a matrix of `width` columns.
inline std::vector<double> columns(const std::vector<double>& x, int64_t width, int64_t begin, int64_t length) {
  std::vector<double> y;
  for (int64_t at = begin; at < static_cast<int64_t>(x.size()); at += width)
    for (int64_t i = 0; i < length; ++i) y.push_back(x[at + i]);
  return y;
}

}  // namespace ropewalk::reference
