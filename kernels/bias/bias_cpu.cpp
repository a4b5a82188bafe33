#include "kernels/bias/bias.h"
#include "kernels/tensor/row_sums.h"
#include "kernels/tensor/store.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements a task

template <class T>
void add_row(int64_t n, const T* x, const T* bias, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y + i, Wide<T>(x[i]) + Wide<T>(bias[i]));
}

template <class T>
void accumulate_row(int64_t n, const T* dy, Wide<T>* sum) {
  for (int64_t i = 0; i < n; ++i) sum[i] += Wide<T>(dy[i]);
}

template <class T>
void run(const AddBias& args) {
  const Rows<T> y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  const T* const bias = rows_of<T>(args.bias, "add_bias: bias").data;
  parallel_ranges(y.count, std::max<int64_t>(1, kGrain / y.width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) vectorized<add_row<T>>(y.width, x[i], bias, y[i]);
  });
}

template <class T>
void run(const BiasGradient& args) {
  using W = Wide<T>;
  const Rows<T> dy = rows_of<T>(args.dy);
  args.dbias.add(row_sums<W>(dy.count, dy.width, [&](int64_t begin, int64_t end, W* partial) {
    for (int64_t i = begin; i < end; ++i) vectorized<accumulate_row<T>>(dy.width, dy[i], partial);
  }));
}

template <class Args>
void dispatch(const Tensor& like, const Args& args) {
  if (like.numel() == 0) return;
  dispatch_float(like.dtype(), [&]<class T>(std::type_identity<T>) { run<T>(args); });
}

}  // namespace

void launch(Cpu, const AddBias& args) { dispatch(args.y, args); }
void launch(Cpu, const BiasGradient& args) { dispatch(args.dy, args); }

}  // namespace ropewalk
