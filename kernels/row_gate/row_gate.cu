#include "kernels/cuda/math.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/row_gate/row_gate.h"

namespace ropewalk {
namespace {

using namespace cuda;

template <int n, class T>
__global__ void forward(Rows<T> y, Rows<T> x, const T* gate) {
  for_each_pack<n>(y.count, y.width, [&](int64_t row, int64_t column) {
    const auto in = load_pack<n>(x[row] + column);
    const float open = cuda::sigmoid(float(gate[row]));
    Pack<T, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<T>(open * float(in.v[i]));
    store_pack(y[row] + column, out);
  });
}

// A block takes row after row.
template <int n, class T>
__global__ void backward(Rows<T> dx, T* dgate, Rows<T> dy, Rows<T> x, const T* gate) {
  SharedMemory shared;
  float* const room = shared.take<float>(kWarp);
  for (int64_t row = blockIdx.x; row < dx.count; row += gridDim.x) {
    const float open = cuda::sigmoid(float(gate[row]));
    float dot = 0;
    for (int64_t column = threadIdx.x * n; column < dx.width; column += blockDim.x * n) {
      const auto in = load_pack<n>(x[row] + column), gradient = load_pack<n>(dy[row] + column);
      Pack<T, n> out;
      for (int i = 0; i < n; ++i) {
        dot += float(gradient.v[i]) * float(in.v[i]);
        out.v[i] = static_cast<T>(open * float(gradient.v[i]));
      }
      store_pack(dx[row] + column, out);
    }
    dot = block_sum(dot, room);
    if (threadIdx.x == 0) dgate[row] = static_cast<T>(open * (1 - open) * dot);
  }
}

template <class T>
void forward(const RowGateForward& args) {
  const auto y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  with_packs<kPackWidth<T>>([&]<int n>() { run(forward<n, T>, grid_for(args.y.numel() / n), y, x, args.gate.data<T>()); }, y, x);
}

template <class T>
void backward(const RowGateBackward& args) {
  const auto dx = rows_of<T>(args.dx), dy = rows_of<T>(args.dy), x = rows_of<T>(args.x);
  with_packs<kPackWidth<T>>(
      [&]<int n>() {
        constexpr int64_t kMostBlocks = 132 * 16, kMostThreads = 512;
        const int64_t threads = std::min(kMostThreads, ceil_div(dx.width, n * kWarp) * kWarp);
        run(backward<n, T>,
            {.blocks = dim3(static_cast<unsigned>(std::min(dx.count, kMostBlocks))),
             .threads = dim3(static_cast<unsigned>(threads)),
             .shared = shared_bytes<float>(kWarp)},
            dx, args.dgate.data<T>(), dy, x, args.gate.data<T>());
      },
      dx, dy, x);
}

}  // namespace

void launch(Cuda, const RowGateForward& args) {
  if (args.y.numel() == 0) return;
  dispatch_narrow(args.y.dtype(), [&]<class T>(std::type_identity<T>) { forward<T>(args); });
}

void launch(Cuda, const RowGateBackward& args) {
  if (args.dx.numel() == 0) return args.dgate.fill(0);  // a row has no elements
  dispatch_narrow(args.dx.dtype(), [&]<class T>(std::type_identity<T>) { backward<T>(args); });
}

}  // namespace ropewalk
