#include "kernels/scale_segments/scale_segments.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task

template <class T>
void scale(int64_t n, const T* x, Wide<T> factor, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, factor * Wide<T>(x[i]));
}

template <class T>
void run(const ScaleSegments& args) {
  const Rows<T> y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  parallel_ranges(y.count, std::max<int64_t>(1, kGrain / y.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t at = 0;
      for (const Segment& segment : args.segments) {
        vectorized<scale<T>>(segment.width, x[row] + at, static_cast<Wide<T>>(segment.factor), y[row] + at);
        at += segment.width;
      }
    }
  });
}

}  // namespace

void launch(Cpu, const ScaleSegments& args) {
  if (args.y.numel() == 0) return;
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace ropewalk
