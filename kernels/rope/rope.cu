#include <cmath>
#include <numbers>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/rope/rope.h"

namespace ropewalk {
namespace {

using namespace cuda;

constexpr int kHeads = 4;  // of a thread, which turns them by the same angles

struct Extents {
  int64_t tokens, length, heads, half;  // length: tokens of a row; half of the channels that turn
};

template <class T>
struct View {
  T* data;
  int64_t row, token, head;  // strides

  explicit View(const Tensor& x) : data(x.data<T>()), row(x.stride(0)), token(x.stride(1)), head(x.stride(2)) {}
  __device__ T* at(const Extents& extents, int64_t index, int64_t of_head) const {
    const int64_t in_row = index / extents.length;
    return data + in_row * row + (index - in_row * extents.length) * token + of_head * head;
  }
  bool packs(int n) const { return cuda::packs(data, row, n) && cuda::packs(data, token, n) && cuda::packs(data, head, n); }
};

// A thread turns n pairs of channels of kHeads heads of a token. Angles are counted in turns: in double up to the part of the last one,
// which a float holds to 1e-7.
template <int n, class T>
__global__ void rotate(Extents extents, View<T> y, View<T> x, const int64_t* position, double log2_theta, float turn) {
  SharedMemory shared;
  double* const frequency = shared.take<double>(extents.half);  // turns from a position to the next
  for (int64_t i = threadIdx.x; i < extents.half; i += blockDim.x)
    frequency[i] = exp2(-log2_theta * static_cast<double>(i) / static_cast<double>(extents.half)) * (0.5 * std::numbers::inv_pi);
  __syncthreads();
  const int64_t packs = extents.half / n, groups = ceil_div(extents.heads, kHeads);
  for_each_item(extents.tokens * groups * packs, [&](int64_t item) {
    const int64_t rest = item / packs, channel = (item - rest * packs) * n, token = rest / groups, head = (rest - token * groups) * kHeads;
    const auto at = static_cast<double>(position[token]);
    float cosine[n], sine[n];
    for (int i = 0; i < n; ++i) {
      const double turns = at * frequency[channel + i];
      sincospif(2 * static_cast<float>(turns - rint(turns)), &sine[i], &cosine[i]);
      sine[i] *= turn;
    }
    const T* const from = x.at(extents, token, head) + channel;
    T* const to = y.at(extents, token, head) + channel;
    Pack<T, n> first[kHeads] = {}, second[kHeads] = {};
    for (int h = 0; h < kHeads; ++h)
      if (head + h < extents.heads) {
        first[h] = load_pack<n>(from + h * x.head);
        second[h] = load_pack<n>(from + h * x.head + extents.half);
      }
    for (int h = 0; h < kHeads; ++h)
      if (head + h < extents.heads) {
        for (int i = 0; i < n; ++i) {
          const float a = float(first[h].v[i]), b = float(second[h].v[i]);
          first[h].v[i] = static_cast<T>(a * cosine[i] - b * sine[i]);
          second[h].v[i] = static_cast<T>(b * cosine[i] + a * sine[i]);
        }
        store_pack(to + h * y.head, first[h]);
        store_pack(to + h * y.head + extents.half, second[h]);
      }
  });
}

template <class T>
void turn_first(const Rope& args) {
  const Extents extents{.tokens = args.x.dim(0) * args.x.dim(1), .length = args.x.dim(1), .heads = args.x.dim(2), .half = args.rotated / 2};
  const View<T> x(args.x), y(args.y);
  const Tensor position = args.position.packed();
  const auto with = [&]<int n>() {
    Grid grid = grid_for(extents.tokens * ceil_div(extents.heads, kHeads) * (extents.half / n), 128);
    grid.shared = shared_bytes<double>(static_cast<size_t>(extents.half));
    run(rotate<n, T>, grid, extents, y, x, position.data<int64_t>(), std::log2(args.theta), static_cast<float>(args.turn));
  };
  constexpr int kPack = kPackWidth<T>;
  extents.half % kPack == 0 && x.packs(kPack) && y.packs(kPack) ? with.template operator()<kPack>() : with.template operator()<1>();
}

}  // namespace

void launch(Cuda, const Rope& args) {
  if (args.x.numel() == 0) return;
  dispatch_narrow(args.x.dtype(), [&]<class T>(std::type_identity<T>) { turn_first<T>(args); });
  const int64_t others = args.x.dim(-1) - args.rotated;
  if (others > 0) args.y.narrow(-1, args.rotated, others).copy_from(args.x.narrow(-1, args.rotated, others));
}

}  // namespace ropewalk
