// Rows of a table by id; ids outside [first_row, first_row + rows) belong to somebody else.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk::reference {

// y[i, :] = weight[ids[i] - first_row, :], or zero
inline std::vector<double> embedding(const std::vector<int64_t>& ids, const std::vector<double>& weight, int64_t width, int64_t first_row) {
  const auto rows = static_cast<int64_t>(weight.size()) / width;
  std::vector<double> y;
  for (const int64_t id : ids)
    for (int64_t j = 0; j < width; ++j) y.push_back(first_row <= id && id < first_row + rows ? weight[(id - first_row) * width + j] : 0);
  return y;
}

// dweight[r, :] = sum of dy[i, :] over all i with ids[i] = first_row + r
inline std::vector<double> embedding_backward(const std::vector<int64_t>& ids, const std::vector<double>& dy, int64_t rows, int64_t width,
                                              int64_t first_row) {
  std::vector<double> dweight(rows * width);
  for (int64_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == first_row + r)
        for (int64_t j = 0; j < width; ++j) dweight[r * width + j] += dy[i * width + j];
  return dweight;
}

}  // namespace ropewalk::reference
