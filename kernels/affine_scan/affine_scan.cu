#include "kernels/affine_scan/affine_scan.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/upload.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

constexpr int kAhead = 4;  // chunks that are read before they are used

// A thread walks the chunks of a run with a few elements of a head's state; `pieces` blocks hold a state.
struct Scan {
  int64_t heads, state, pieces;
  const int64_t* first_chunk;
};

// A thread's place in it.
template <int n>
struct Place {
  int64_t task, run, head;  // task: of run and head
  int64_t element;          // of the state
  bool inside;

  __device__ explicit Place(const Scan& s) {
    task = blockIdx.x / s.pieces;
    run = task / s.heads;
    head = task % s.heads;
    element = (blockIdx.x % s.pieces * blockDim.x + threadIdx.x) * n;
    inside = element < s.state;
  }
  // The elements of state number `state`, or zeros where there are none.
  __device__ Pack<float, n> load(const float* states, int64_t state, const Scan& s) const {
    return states && inside ? load_pack<n>(states + state * s.state + element) : Pack<float, n>{};
  }
  __device__ void store(float* states, int64_t state, const Scan& s, const Pack<float, n>& values) const {
    if (inside) store_pack(states + state * s.state + element, values);
  }
};

// to = decay * from + addend
template <int n>
__device__ Pack<float, n> fold(float decay, const Pack<float, n>& from, const Pack<float, n>& addend) {
  Pack<float, n> to;
  for (int k = 0; k < n; ++k) to.v[k] = fmaf(decay, from.v[k], addend.v[k]);
  return to;
}

// start and total_decay may be null.
template <int n>
__global__ void forward(Scan s, const float* decay, const float* local, const float* start, float* entering, float* leaving,
                        float* total_decay) {
  const Place<n> place(s);
  const int64_t end = s.first_chunk[place.run + 1];
  Pack<float, n> h = place.load(start, place.task, s);
  float total = 1;
  for (int64_t c = s.first_chunk[place.run]; c < end; c += kAhead) {
    Pack<float, n> addend[kAhead] = {};
    float factor[kAhead] = {};
    for (int j = 0; j < kAhead; ++j) {
      if (c + j >= end) continue;
      const int64_t state = (c + j) * s.heads + place.head;
      addend[j] = place.load(local, state, s);
      factor[j] = decay[state];
    }
    for (int j = 0; j < kAhead; ++j) {
      if (c + j >= end) continue;
      place.store(entering, (c + j) * s.heads + place.head, s, h);
      h = fold(factor[j], h, addend[j]);
      total *= factor[j];
    }
  }
  place.store(leaving, place.task, s, h);
  if (total_decay && blockIdx.x % s.pieces == 0 && threadIdx.x == 0) total_decay[place.task] = total;
}

// d_entering and d_leaving may be null. Each warp leaves its part of <d_local, entering> in dots [C, H, pieces, warps].
template <int n>
__global__ void backward(Scan s, const float* decay, const float* entering, const float* d_entering, const float* d_leaving, float* d_local,
                         float* d_start, float* dots) {
  const Place<n> place(s);
  const int64_t first = s.first_chunk[place.run], warps = blockDim.x / kWarp;
  const int64_t warp = blockIdx.x % s.pieces * warps + threadIdx.x / kWarp;
  Pack<float, n> gradient = place.load(d_leaving, place.task, s);
  for (int64_t c = s.first_chunk[place.run + 1] - 1; c >= first; c -= kAhead) {
    Pack<float, n> before[kAhead] = {}, addend[kAhead] = {};
    float factor[kAhead] = {};
    for (int j = 0; j < kAhead; ++j) {
      if (c - j < first) continue;
      const int64_t state = (c - j) * s.heads + place.head;
      before[j] = place.load(entering, state, s);
      addend[j] = place.load(d_entering, state, s);
      factor[j] = decay[state];
    }
    for (int j = 0; j < kAhead; ++j) {
      if (c - j < first) continue;
      const int64_t state = (c - j) * s.heads + place.head;
      place.store(d_local, state, s, gradient);
      float dot = 0;
      for (int k = 0; k < n; ++k) dot = fmaf(gradient.v[k], before[j].v[k], dot);
      dot = warp_sum(dot);
      if (threadIdx.x % kWarp == 0) dots[state * s.pieces * warps + warp] = dot;
      gradient = fold(factor[j], gradient, addend[j]);
    }
  }
  place.store(d_start, place.task, s, gradient);
}

// sums[i] = parts[i][0] + parts[i][1] + ..: a warp each.
__global__ void add_rows(int64_t rows, int64_t width, const float* parts, float* sums) {
  const int lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / kWarp; row < rows;
       row += static_cast<int64_t>(gridDim.x) * warps) {
    float sum = 0;
    for (int64_t i = lane; i < width; i += kWarp) sum += parts[row * width + i];
    sum = warp_sum(sum);
    if (lane == 0) sums[row] = sum;
  }
}

unsigned threads_for(int64_t state, int pack) {
  constexpr int64_t kMost = 256;
  return static_cast<unsigned>(std::min(kMost, std::max<int64_t>(1, ceil_div(state, pack * kWarp)) * kWarp));
}

// Calls body.operator()<pack>(scan, grid).
template <class Body>
void over_states(const Shape& states, const std::vector<int64_t>& first_chunk, std::initializer_list<const Tensor*> operands,
                 const Body& body) {
  constexpr int kPack = kPackWidth<float>;
  const int64_t heads = states[1], state = states[2] * states[3], runs = std::ssize(first_chunk) - 1;
  bool aligned = state % kPack == 0;
  for (const Tensor* x : operands) aligned = aligned && (!*x || packs(x->data<float>(), 0, kPack));
  const auto table = upload(first_chunk);
  const int pack = aligned ? kPack : 1;
  const unsigned threads = threads_for(state, pack);
  const Scan scan{
      .heads = heads, .state = state, .pieces = std::max<int64_t>(1, ceil_div(state, threads * pack)), .first_chunk = table.data};
  const Grid grid{.blocks = dim3(static_cast<unsigned>(runs * heads * scan.pieces)), .threads = dim3(threads)};
  aligned ? body.template operator()<kPack>(scan, grid) : body.template operator()<1>(scan, grid);
}

const float* read(const Tensor& x) { return x ? x.data<float>() : nullptr; }

}  // namespace

void launch(Cuda, const AffineScanForward& args) {
  check(args);
  over_states(args.local.shape(), args.first_chunk, {&args.local, &args.start, &args.entering, &args.leaving},
              [&]<int n>(const Scan& scan, const Grid& grid) {
                run(forward<n>, grid, scan, read(args.decay), read(args.local), read(args.start), args.entering.data<float>(),
                    args.leaving.data<float>(), args.total_decay ? args.total_decay.data<float>() : nullptr);
              });
}

void launch(Cuda, const AffineScanBackward& args) {
  check(args);
  over_states(args.entering.shape(), args.first_chunk, {&args.entering, &args.d_entering, &args.d_leaving, &args.d_local, &args.d_start},
              [&]<int n>(const Scan& scan, const Grid& grid) {
                const int64_t width = scan.pieces * (grid.threads.x / kWarp), rows = args.d_decay.numel();
                const Tensor dots = Tensor::empty({rows, width}, DType::kFloat32, Cuda{});
                run(backward<n>, grid, scan, read(args.decay), read(args.entering), read(args.d_entering), read(args.d_leaving),
                    args.d_local.data<float>(), args.d_start.data<float>(), dots.data<float>());
                run(add_rows, grid_for(rows * kWarp), rows, width, read(dots), args.d_decay.data<float>());
              });
}

}  // namespace ropewalk
