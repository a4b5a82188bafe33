#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/rms_norm/rms_norm.h"

namespace ropewalk {
namespace {

using namespace cuda;

// A block takes one stretch of n channels after the other: `heads` of them stand side by side in a row.
struct Stretches {
  int64_t rows, heads, n;
  __device__ int64_t count() const { return rows * heads; }
};

// Enough threads for one pack each, in whole warps.
unsigned threads_for(int64_t n, int pack) {
  constexpr int64_t kMost = 512;
  return static_cast<unsigned>(std::min(kMost, std::max<int64_t>(1, ceil_div(n, pack * kWarp)) * kWarp));
}

template <int pack, class X, class Y>
__global__ void forward(Stretches s, Rows<X> x, Rows<Y> y, Rows<float> rstd, const float* weight, float eps) {
  SharedMemory shared;
  float* const room = shared.take<float>(kWarp);
  for (int64_t i = blockIdx.x; i < s.count(); i += gridDim.x) {
    const int64_t row = i / s.heads, head = i % s.heads;
    const X* const from = x[row] + head * s.n;
    Y* const to = y[row] + head * s.n;
    float squares = 0;
    for (int64_t c = threadIdx.x * pack; c < s.n; c += blockDim.x * pack) {
      const auto in = load_pack<pack>(from + c);
      for (int k = 0; k < pack; ++k) squares += float(in.v[k]) * float(in.v[k]);
    }
    const float r = 1 / sqrtf(block_sum(squares, room) / static_cast<float>(s.n) + eps);
    if (threadIdx.x == 0) rstd[row][head] = r;
    for (int64_t c = threadIdx.x * pack; c < s.n; c += blockDim.x * pack) {
      const auto in = load_pack<pack>(from + c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<Y, pack> out;
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<Y>(float(in.v[k]) * r * gain.v[k]);
      store_pack(to + c, out);
    }
  }
}

// dx may be null. With parts, each block leaves its sum over its rows of dy * h in parts[block][n].
template <int pack, class X, class Y>
__global__ void backward(Stretches s, Rows<Y> dy, Rows<X> x, const float* weight, Rows<float> rstd, X* dx, bool accumulate, float* parts) {
  SharedMemory shared;
  float* const room = shared.take<float>(kWarp);
  float* const dweight = shared.take<float>(parts ? s.n : 0);  // a thread adds to its own channels only
  if (parts)
    for (int64_t c = threadIdx.x * pack; c < s.n; c += blockDim.x * pack) store_pack(dweight + c, Pack<float, pack>{});
  for (int64_t i = blockIdx.x; i < s.count(); i += gridDim.x) {
    const int64_t row = i / s.heads, head = i % s.heads;
    const X* const in = x[row] + head * s.n;
    const Y* const gradient = dy[row] + head * s.n;
    const float r = rstd[row][head];
    float dot = 0;
    for (int64_t c = threadIdx.x * pack; c < s.n; c += blockDim.x * pack) {
      const auto a = load_pack<pack>(in + c);
      const auto d = load_pack<pack>(gradient + c);
      const auto gain = load_pack<pack>(weight + c);
      for (int k = 0; k < pack; ++k) dot += float(d.v[k]) * gain.v[k] * float(a.v[k]);
      if (!parts) continue;
      auto sum = load_pack<pack>(dweight + c);
      for (int k = 0; k < pack; ++k) sum.v[k] += float(d.v[k]) * float(a.v[k]) * r;
      store_pack(dweight + c, sum);
    }
    if (!dx) continue;
    const float along = block_sum(dot, room) * r * r / static_cast<float>(s.n);
    X* const to = dx + (row * s.heads + head) * s.n;
    for (int64_t c = threadIdx.x * pack; c < s.n; c += blockDim.x * pack) {
      const auto a = load_pack<pack>(in + c);
      const auto d = load_pack<pack>(gradient + c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<X, pack> out{};
      if (accumulate) out = load_pack<pack>(to + c);
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<X>(float(out.v[k]) + r * (float(d.v[k]) * gain.v[k] - float(a.v[k]) * along));
      store_pack(to + c, out);
    }
  }
  if (parts)
    for (int64_t c = threadIdx.x * pack; c < s.n; c += blockDim.x * pack)
      store_pack(parts + blockIdx.x * s.n + c, load_pack<pack>(dweight + c));
}

// Calls body.operator()<pack>() for the widest packs that all operands allow.
template <class X, class Y, class Body>
void with_packs(int64_t n, const Rows<X>& x, const Rows<Y>& y, const float* weight, const Body& body) {
  constexpr int kPack = 16 / std::max(sizeof(X), sizeof(Y));
  const bool fits = n % kPack == 0 && packs(x.data, x.stride, kPack) && packs(y.data, y.stride, kPack) && packs(weight, 0, kPack);
  fits ? body.template operator()<kPack>() : body.template operator()<1>();
}

template <class X, class Y>
void forward(const RmsNormForward& args) {
  const auto x = rows_of<X>(args.x);
  const auto y = rows_of<Y>(args.y);
  const auto rstd = rows_of<float>(args.rstd);
  const float* const weight = args.weight.data<float>();
  const Stretches s{.rows = x.count, .heads = rstd.width, .n = args.weight.dim(0)};
  with_packs(s.n, x, y, weight, [&]<int pack>() {
    const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(s.rows * s.heads, 1 << 20));
    run(forward<pack, X, Y>, {.blocks = dim3(blocks), .threads = dim3(threads_for(s.n, pack)), .shared = shared_bytes<float>(kWarp)}, s, x,
        y, rstd, weight, static_cast<float>(args.eps));
  });
}

template <class X, class Y>
void backward(const RmsNormBackward& args) {
  const auto x = rows_of<X>(args.x);
  const auto dy = rows_of<Y>(args.dy);
  const auto rstd = rows_of<float>(args.rstd);
  const float* const weight = args.weight.data<float>();
  const Stretches s{.rows = x.count, .heads = rstd.width, .n = args.weight.dim(0)};
  X* const dx = args.dx ? args.dx.data<X>() : nullptr;
  const int64_t blocks = parts_of(s.rows * s.heads);
  const Tensor parts = args.dweight ? Tensor::empty({blocks, s.n}, DType::kFloat32, Cuda{}) : Tensor();
  const size_t shared = shared_bytes<float>(kWarp) + shared_bytes<float>(parts ? static_cast<size_t>(s.n) : 0);
  with_packs(s.n, x, dy, weight, [&]<int pack>() {
    run(backward<pack, X, Y>, {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = dim3(threads_for(s.n, pack)), .shared = shared}, s,
        dy, x, weight, rstd, dx, args.accumulate, parts ? parts.data<float>() : nullptr);
  });
  if (parts) add_parts(parts, args.dweight);
}

}  // namespace

void launch(Cuda, const RmsNormForward& args) {
  dispatch_narrow(args.x.dtype(), args.y.dtype(), [&]<class X, class Y>() { forward<X, Y>(args); });
}

void launch(Cuda, const RmsNormBackward& args) {
  dispatch_narrow(args.x.dtype(), args.dy.dtype(), [&]<class X, class Y>() { backward<X, Y>(args); });
}

}  // namespace ropewalk
