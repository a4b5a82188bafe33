#include "kernels/bias/bias.h"
#include "kernels/cuda/stretches.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

// Stretches here only share the work out.
Stretches tiles(const Tensor& rows, int pack) {
  constexpr int64_t kMost = 1024;
  const int64_t width = rows.dim(-1), places = ceil_div(width, kMost), n = ceil_div(ceil_div(width, places), pack) * pack;
  return {.rows = rows.numel() / width,
          .width = static_cast<int>(width),
          .places = static_cast<int>(ceil_div(width, n)),
          .n = static_cast<int>(n)};
}

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>) add(Stretches s, Rows<T> x, const T* bias, Rows<T> y) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto in = team.hold(x[team.row()] + team.first()), to_each = team.hold(bias + team.first());
    T* const to = y[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c), b = to_each.at(slot, c);
      Pack<T, pack> out;
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<T>(float(a.v[k]) + float(b.v[k]));
      store_pack(to + c, out);
    });
  }
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
  const Rows<T> y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  const T* const bias = args.bias.data<T>();
  constexpr int wide = kPackWidth<T>;
  const Stretches s = tiles(args.x, wide);
  with_packs<wide, 2 * sizeof(T)>(s, packs(x, wide) && packs(y, wide) && packs(bias, 0, wide),
                                  [&]<int pack, int held>() { run(add<pack, held, T>, grid_for<pack, held>(s), s, x, bias, y); });
}

template <class T>
void launch_on_gpu(const BiasGradient& args) {
  const Rows<T> dy = rows_of<T>(args.dy);
  const Stretches s = tiles(args.dy, kPackWidth<T>);
  with_packs<kPackWidth<T>, sizeof(T) + sizeof(float)>(s, packs(dy, kPackWidth<T>), [&]<int pack, int held>() {
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
