#include <array>
#include <numeric>
#include <vector>

#include "kernels/flat/flat.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/prefetch.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kBlock = 1 << 15;  // elements a partial sum

// In 16 interleaved sums, so that the order does not depend on the width of the vectors.
template <class T>
double sum_of_squares(int64_t n, const T* x) {
  constexpr int64_t kLanes = 16, kAhead = 4096 / sizeof(T);
  std::array<double, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    prefetch_line(x + i + kAhead);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<Wide<T>>(x[i + lane]);
      sums[lane] += value * value;
    }
  }
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (const double s : sums) sum += s;
  return sum;
}

template <class T>
struct Addends {
  T *const *spans, *const *targets;
  int64_t count, target_count;
};

// kWidth elements from number i on.
template <int64_t kWidth, class T>
[[gnu::always_inline]] inline void sum_stretch_into(int64_t i, Addends<T> all) {
  Wide<T> sums[kWidth];
#pragma omp simd
  for (int64_t l = 0; l < kWidth; ++l) sums[l] = all.spans[0][i + l];
  for (int64_t s = 1; s < all.count; ++s) {
#pragma omp simd
    for (int64_t l = 0; l < kWidth; ++l) sums[l] += static_cast<Wide<T>>(all.spans[s][i + l]);
  }
  for (int64_t t = 0; t < all.target_count; ++t) {
#pragma omp simd
    for (int64_t l = 0; l < kWidth; ++l) store(all.targets[t] + i + l, sums[l]);
  }
}

template <class T>
void sum_into(int64_t n, Addends<T> all) {
  constexpr int64_t kLine = 64 / sizeof(T), kAhead = 4096 / sizeof(T);
  int64_t i = 0;
  for (; i + kLine <= n; i += kLine) {
    for (int64_t s = 0; s < all.count; ++s) prefetch_line(all.spans[s] + i + kAhead);
    sum_stretch_into<kLine>(i, all);
  }
  for (; i < n; ++i) sum_stretch_into<1>(i, all);
}

template <class T>
std::vector<T*> pointers(const Tensors& spans) {
  std::vector<T*> all;
  for (const Tensor& span : spans) all.push_back(span.data<T>());
  return all;
}

template <class T>
std::vector<T*> moved(std::vector<T*> pointers, int64_t by) {
  for (T*& pointer : pointers) pointer += by;
  return pointers;
}

}  // namespace

void launch(Cpu, const SumOfSquares& args) {
  check(args);
  double* const sum = span_of<double>(args.sum, 1, "sum_of_squares: sum");
  const int64_t n = args.x.numel();
  std::vector<double> partials((n + kBlock - 1) / kBlock);
  dispatch_float(args.x.dtype(), [&]<class T>(std::type_identity<T>) {
    const T* x = args.x.data<T>();
    parallel_ranges(n, kBlock,
                    [&](int64_t begin, int64_t end) { partials[begin / kBlock] = vectorized<sum_of_squares<T>>(end - begin, x + begin); });
  });
  *sum += std::accumulate(partials.begin(), partials.end(), 0.0);
}

void launch(Cpu, const SumInto& args) {
  check(args);
  const Tensor& first = args.spans.front();
  dispatch_float(first.dtype(), [&]<class T>(std::type_identity<T>) {
    const std::vector<T*> all_spans = pointers<T>(args.spans), all_targets = pointers<T>(args.targets);
    parallel_ranges(first.numel(), kBlock, [&](int64_t begin, int64_t end) {
      const std::vector<T*> spans = moved(all_spans, begin), targets = moved(all_targets, begin);
      vectorized<sum_into<T>>(end - begin, Addends<T>{spans.data(), targets.data(), std::ssize(spans), std::ssize(targets)});
    });
  });
}

}  // namespace ropewalk
