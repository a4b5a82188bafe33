#include "kernels/cuda/upload.cuh"
#include "kernels/flat/flat.h"
#include "kernels/flat/span.cuh"

namespace ropewalk {
namespace cuda {
namespace {

// Block i adds up the parts of sum i.
__global__ void add_column(int64_t parts, const double* part, double* sum) {
  double total = 0;
  for (int64_t p = threadIdx.x; p < parts; p += blockDim.x) total += part[p * gridDim.x + blockIdx.x];
  total = block_sum_in_double(total);
  if (threadIdx.x == 0) sum[blockIdx.x] += total;
}

}  // namespace

void add_double_parts(const Tensor& parts, double* sum) {
  constexpr int kThreads = 256;
  run(add_column, {.blocks = dim3(static_cast<unsigned>(parts.dim(1))), .threads = dim3(kThreads), .shared = shared_bytes<double>(kWarp)},
      parts.dim(0), parts.data<double>(), sum);
}

}  // namespace cuda

namespace {

using namespace cuda;

template <int n, class T>
__global__ void square_sums(int64_t count, const T* x, double* parts) {
  double sum = 0;
  for_each_item(count / n, [&](int64_t item) {
    const auto values = load_pack<n>(x + item * n);
    for (int k = 0; k < n; ++k) {
      const double value = static_cast<float>(values.v[k]);
      sum += value * value;
    }
  });
  if (blockIdx.x == 0 && threadIdx.x < count % n) {  // what no pack holds
    const double value = static_cast<float>(x[count - 1 - threadIdx.x]);
    sum += value * value;
  }
  sum = block_sum_in_double(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <int n, class T>
__device__ void add_up(int64_t i, const T* const* spans, int64_t span_count, T* const* targets, int64_t target_count) {
  float sums[n];
  const auto first = load_pack<n>(spans[0] + i);
  for (int k = 0; k < n; ++k) sums[k] = static_cast<float>(first.v[k]);
  for (int64_t s = 1; s < span_count; ++s) {
    const auto next = load_pack<n>(spans[s] + i);
    for (int k = 0; k < n; ++k) sums[k] += static_cast<float>(next.v[k]);
  }
  Pack<T, n> rounded;
  for (int k = 0; k < n; ++k) rounded.v[k] = static_cast<T>(sums[k]);
  for (int64_t t = 0; t < target_count; ++t) store_pack(targets[t] + i, rounded);
}

template <int n, class T>
__global__ void sum_into(int64_t count, const T* const* spans, int64_t span_count, T* const* targets, int64_t target_count) {
  for_each_item(ceil_div(count, n), [&](int64_t item) {
    const int64_t i = item * n;
    if (i + n <= count)
      add_up<n>(i, spans, span_count, targets, target_count);
    else
      for (int64_t j = i; j < count; ++j) add_up<1>(j, spans, span_count, targets, target_count);
  });
}

template <class T>
void sum_into(const SumInto& args) {
  std::vector<const T*> spans;
  std::vector<T*> targets;
  bool aligned = true;
  for (const Tensor& span : args.spans) spans.push_back(span.data<T>());
  for (const Tensor& target : args.targets) targets.push_back(target.data<T>());
  for (const T* span : spans) aligned = aligned && packs(span, 0, kPackWidth<T>);
  for (const T* target : targets) aligned = aligned && packs(target, 0, kPackWidth<T>);
  const auto spans_there = upload(spans);
  const auto targets_there = upload(targets);
  const int64_t n = args.spans.front().numel();
  const auto launch = [&]<int pack>() {
    run(sum_into<pack, T>, grid_for(ceil_div(n, pack)), n, spans_there.data, spans_there.count, targets_there.data, targets_there.count);
  };
  aligned ? launch.template operator()<kPackWidth<T>>() : launch.template operator()<1>();
}

}  // namespace

void launch(Cuda, const SumOfSquares& args) {
  check(args);
  double* const sum = span_of<double>(args.sum, 1, "sum_of_squares: sum");
  const int64_t n = args.x.numel();
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) {
    const T* const x = args.x.data<T>();
    const auto launch = [&]<int pack>() {
      Grid grid = grid_for(ceil_div(n, pack));
      grid.shared = shared_bytes<double>(kWarp);
      const Tensor parts = Tensor::empty({grid.blocks.x, 1}, DType::kFloat64, Cuda{});
      run(square_sums<pack, T>, grid, n, x, parts.data<double>());
      add_double_parts(parts, sum);
    };
    packs(x, 0, kPackWidth<T>) ? launch.template operator()<kPackWidth<T>>() : launch.template operator()<1>();
  });
}

void launch(Cuda, const SumInto& args) {
  check(args);
  dispatch_narrow(args.spans.front().dtype(), [&]<class T>(std::type_identity<T>) { sum_into<T>(args); });
}

}  // namespace ropewalk
