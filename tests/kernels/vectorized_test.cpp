#include "kernels/tensor/vectorized.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

namespace ropewalk {
namespace {

TEST(Isa, IsAtMostWhatTheEnvironmentNames) {
  const char* given = std::getenv("ROPEWALK_ISA");
  if (!given) GTEST_SKIP() << "ROPEWALK_ISA is not set";
  const std::array names{"plain", "avx2", "avx512", "amx"};  // in Isa's order
  EXPECT_LE(static_cast<int>(isa()), std::find(names.begin(), names.end(), std::string(given)) - names.begin());
}

struct Line {
  const double* from;
  double slope;
};

double sum_of_line(int64_t n, Line line, double* to) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += to[i] = line.slope * line.from[i] + 1;
  return sum;
}

TEST(Vectorized, TakesWhatTheLeafTakesAndReturnsWhatItReturns) {
  std::vector<double> x(101), y(101);
  std::iota(x.begin(), x.end(), 0.0);
  EXPECT_EQ(vectorized<sum_of_line>(101, {x.data(), 2}, y.data()), 101 * 100 + 101);
  EXPECT_EQ(y[100], 201);
}

}  // namespace
}  // namespace ropewalk
