#include <array>
#include <numeric>
#include <vector>

#include "kernels/flat/flat.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kBlock = 1 << 15;  // elements a partial sum

// In 16 interleaved sums, so that the order does not depend on the width of the vectors.
template <class T>
double sum_of_squares(int64_t n, const T* x) {
  constexpr int64_t kLanes = 16;
  std::array<double, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<Wide<T>>(x[i + lane]);
      sums[lane] += value * value;
    }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (const double s : sums) sum += s;
  return sum;
}

}  // namespace

void launch(Cpu, const SumOfSquares& args) {
  expect(args.x.contiguous(), "sum_of_squares: x: expected a dense tensor, given a view {}", args.x.shape());
  const int64_t n = args.x.numel();
  std::vector<double> partials((n + kBlock - 1) / kBlock);
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) {
    const T* x = args.x.data<T>();
    parallel_ranges(n, kBlock,
                    [&](int64_t begin, int64_t end) { partials[begin / kBlock] = vectorized<sum_of_squares<T>>(end - begin, x + begin); });
  });
  args.sum = std::accumulate(partials.begin(), partials.end(), 0.0);
}

}  // namespace ropewalk
