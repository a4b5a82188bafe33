#include "kernels/flat/flat.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/support/devices.h"
#include "tests/support/threads.h"

namespace ropewalk {
namespace {

using testing::random_tensor;

double sum_of_squares(const Tensor& x) {
  const Tensor sum = Tensor::full({1}, 2.5, DType::kFloat64, x.device());
  launch(x.device(), SumOfSquares{.x = x, .sum = sum});
  return sum.item() - 2.5;
}

TEST(SumOfSquares, AddsToTheSum) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const Device device : testing::devices(dtype))
      for (const int64_t n : {0, 1, 15, 16, 33, (1 << 15) - 1, (1 << 15) + 17, 100000}) {
        const Tensor x = random_tensor({n + 1}, 1, 3.0, dtype).to(device);
        for (const Tensor& span : {x.narrow(0, 0, n), x.narrow(0, 1, n)}) {  // the second begins where no pack of a GPU does
          double expected = 0;
          for (const double value : span.to_vector<double>()) expected += value * value;
          EXPECT_NEAR(sum_of_squares(span), expected, 1e-12 * expected + 1e-14);
        }
      }
}

TEST(SumOfSquares, SumsInDouble) {
  for (const Device device : testing::devices()) {
    const Tensor x = Tensor::full({100000}, 0.1, DType::kFloat32, device);  // in float it would be off by 1e-4
    EXPECT_NEAR(sum_of_squares(x), 100000 * std::pow(double{0.1f}, 2), 1e-7);
  }
}

TEST(SumOfSquares, ShowsWhatIsNotFinite) {
  for (const Device device : testing::devices())
    for (const int64_t at : {0, 40000, 99999}) {
      const Tensor x = random_tensor({100000}, 1, 1.0, DType::kFloat32);
      x.data<float>()[at] = std::numeric_limits<float>::infinity();
      EXPECT_EQ(sum_of_squares(x.to(device)), std::numeric_limits<double>::infinity());
      x.data<float>()[at] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(sum_of_squares(x.to(device))));
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

TEST(SumInto, AddsUpTheSpansInTheirOrder) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16})
    for (const Device device : testing::devices(dtype))
      for (const int64_t n : {0, 1, 7, 64, 1003})
        for (const int64_t begin : {0, 1}) {  // the second is where no pack of a GPU begins
          Tensors spans;
          for (uint64_t s = 0; s < 3; ++s) spans.push_back(random_tensor({n + 1}, s, 1.0, dtype).to(device).narrow(0, begin, n));
          const Tensor other = Tensor::full({n}, 7, dtype, device);
          std::vector<double> expected(static_cast<size_t>(n));
          for (const Tensor& span : spans) {
            const Tensor sum = Tensor::from({n}, expected).to(wide(dtype));
            sum.add(span.to(Cpu{}));
            expected = sum.to_vector<double>();
          }
          expected = Tensor::from({n}, expected).to(dtype).to_vector<double>();
          launch(device, SumInto{.spans = spans, .targets = {spans[1], other}});
          EXPECT_EQ(spans[1].to_vector<double>(), expected);
          EXPECT_EQ(other.to_vector<double>(), expected);
        }
}

}  // namespace
}  // namespace ropewalk
