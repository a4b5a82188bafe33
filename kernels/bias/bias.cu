#include "kernels/bias/bias.h"
#include "kernels/cuda/stretches.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

// Tiles of columns.
Stretches tiles(const Tensor& rows, int pack) {
  constexpr int64_t kMost = 1024;
  const int64_t width = rows.dim(-1), places = ceil_div(width, kMost), n = ceil_div(ceil_div(width, places), pack) * pack;
  return {.rows = rows.numel() / width,
          .width = static_cast<int>(width),
          .places = static_cast<int>(ceil_div(width, n)),
          .n = static_cast<int>(n)};
}

template <int n, class T>
__global__ void add(Rows<T> x, const T* bias, Rows<T> y) {
  for_each_pack<n>(x.count, x.width, [&](int64_t row, int64_t c) {
    const auto a = load_pack<n>(x[row] + c), b = load_pack<n>(bias + c);
    Pack<T, n> sum;
    for (int k = 0; k < n; ++k) sum.v[k] = static_cast<T>(float(a.v[k]) + float(b.v[k]));
    store_pack(y[row] + c, sum);
  });
}

// Block (b, place) leaves its sums over its rows in the place's channels of parts[b][N].
template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>) gradient(Stretches s, Rows<T> dy, float* parts) {
  SharedMemory shared;
  Team<pack, held> team(s, shared);
  ChannelSums<pack, held> dbias(s.n, parts, shared);
  for (; team.goes_on(); team.go_on()) {
    const auto d = team.hold(dy[team.row()] + team.first());
    team.each_pack([&](int slot, int c) {
      const auto terms = d.at(slot, c);
      auto sums = dbias.at(slot, c);
      for (int k = 0; k < pack; ++k) sums.v[k] += float(terms.v[k]);
      dbias.put(slot, c, sums);
    });
  }
  dbias.leave(blockIdx.x * static_cast<int64_t>(s.width) + team.first(), team.size_at(team.place()));
}

template <class T>
void launch_on_gpu(const AddBias& args) {
  const Rows<T> y = rows_of<T>(args.y), x = rows_of<T>(args.x), bias = rows_of<T>(args.bias);
  with_packs<kPackWidth<T>>([&]<int n>() { run(add<n, T>, grid_for(args.y.numel() / n), x, bias.data, y); }, x, bias, y);
}

template <class T>
void launch_on_gpu(const BiasGradient& args) {
  const Rows<T> dy = rows_of<T>(args.dy);
  const Stretches s = tiles(args.dy, kPackWidth<T>);
  with_held_packs<kPackWidth<T>, sizeof(T) + sizeof(float)>(s, packs(dy, kPackWidth<T>), [&]<int pack, int held>() {
    const Grid grid = grid_for_sums<pack, held>(s, true, 1);
    const Parts dbias(args.dbias, grid);
    run(gradient<pack, held, T>, grid, s, dy, dbias.data());
    dbias.add();
  });
}

template <class Args>
void dispatch(const Tensor& like, const Args& args) {
  if (like.numel() == 0) return;
  dispatch_narrow(like.dtype(), [&]<class T>(std::type_identity<T>) { launch_on_gpu<T>(args); });
}

}  // namespace

void launch(Cuda, const AddBias& args) { dispatch(args.y, args); }
void launch(Cuda, const BiasGradient& args) { dispatch(args.dy, args); }

}  // namespace ropewalk
