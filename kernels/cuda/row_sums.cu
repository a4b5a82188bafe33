#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_sums.cuh"

namespace ropewalk::cuda {
namespace {

// Eight neighbouring columns a block; the threads of a column add every 32nd part each, and the first adds them up.
__global__ void add_columns(int64_t parts, int64_t n, const float* part, float* sum) {
  constexpr int kColumns = 8;  // a block: neighbouring lanes read neighbouring columns
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  float total = 0;
  if (column < n)
    for (int64_t p = threadIdx.x / kColumns; p < parts; p += blockDim.x / kColumns) total += part[p * n + column];
  SharedMemory shared;
  float* const of_thread = shared.take<float>(blockDim.x);
  of_thread[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x < kColumns && column < n) {
    float all = 0;
    for (unsigned i = threadIdx.x; i < blockDim.x; i += kColumns) all += of_thread[i];
    sum[column] += all;
  }
}

}  // namespace

void add_parts(const Tensor& parts, const Tensor& sum) {
  constexpr int kThreads = 256, kColumns = 8;
  const int64_t n = sum.numel();
  run(add_columns,
      {.blocks = dim3(static_cast<unsigned>(ceil_div(n, kColumns))), .threads = dim3(kThreads), .shared = shared_bytes<float>(kThreads)},
      parts.numel() / (n == 0 ? 1 : n), n, parts.data<float>(), sum.data<float>());
}

}  // namespace ropewalk::cuda
