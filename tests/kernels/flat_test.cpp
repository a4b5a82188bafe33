#include "kernels/flat/flat.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/support/finite_difference.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_tensor;

double sum_of_squares(const Tensor& x) {
  double sum = -1;
  launch(Cpu{}, SumOfSquares{.x = x, .sum = sum});
  return sum;
}

TEST(SumOfSquares, MatchesTheDefinition) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const int64_t n : {0, 1, 15, 16, 33, (1 << 15) - 1, (1 << 15) + 17, 100000}) {
      const Tensor x = random_tensor({n}, 1, 3.0, dtype);
      double expected = 0;
      for (const double value : x.to_vector<double>()) expected += value * value;
      EXPECT_NEAR(sum_of_squares(x), expected, 1e-12 * expected);
    }
}

TEST(SumOfSquares, SumsInDouble) {
  const Tensor x = Tensor::full({100000}, 0.1, DType::kFloat32);  // in float it would be off by 1e-4
  EXPECT_NEAR(sum_of_squares(x), 100000 * std::pow(double{0.1f}, 2), 1e-7);
}

TEST(SumOfSquares, ShowsWhatIsNotFinite) {
  for (const int64_t at : {0, 40000, 99999}) {
    const Tensor x = random_tensor({100000}, 1, 1.0, DType::kFloat32);
    x.data<float>()[at] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(sum_of_squares(x), std::numeric_limits<double>::infinity());
    x.data<float>()[at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(sum_of_squares(x)));
  }
}

TEST(SumOfSquares, GivesTheSameBitsOnOneAndTwoThreads) {
  const Tensor x = random_tensor({1000003}, 1);
  testing::expect_same_bits_on_one_and_two_threads([&] { return Tensors{Tensor::full({}, sum_of_squares(x), DType::kFloat64)}; });
}

TEST(SumOfSquares, RefusesViewsThatAreNotDense) {
  EXPECT_THAT(
      [] {
        sum_of_squares(random_tensor({4, 5}, 1).narrow(1, 0, 3));
      },
      ::testing::ThrowsMessage<ShapeError>("sum_of_squares: x: expected a dense tensor, given a view [4, 3]"));
}

}  // namespace
}  // namespace ropewalk
