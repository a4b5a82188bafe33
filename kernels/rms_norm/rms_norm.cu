#include "kernels/cuda/stretches.cuh"
#include "kernels/rms_norm/rms_norm.h"

namespace ropewalk {
namespace {

using namespace cuda;

template <int pack, int held, class X, class Y>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    forward(Stretches s, Rows<X> x, Rows<Y> y, Rows<float> rstd, const float* weight, float eps) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto in = team.hold(x[team.row()] + team.first());
    float squares = 0;
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      for (int k = 0; k < pack; ++k) squares += float(a.v[k]) * float(a.v[k]);
    });
    const float r = 1 / sqrtf(team.sum(squares) / static_cast<float>(s.n) + eps);
    team.write(rstd, r);
    Y* const to = y[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<Y, pack> out;
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<Y>(float(a.v[k]) * r * gain.v[k]);
      store_pack(to + c, out);
    });
  }
}

// dx and parts may be null. Block b leaves its sums over its rows of dy * h in parts[b][n].
template <int pack, int held, class X, class Y>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    backward(Stretches s, Rows<Y> dy, Rows<X> x, const float* weight, Rows<float> rstd, X* dx, bool accumulate, float* parts) {
  SharedMemory shared;
  Team<pack, held> team(s, shared);
  ChannelSums<pack, held> dweight(s.n, parts, shared);
  for (; team.goes_on(); team.go_on()) {
    const auto in = team.hold(x[team.row()] + team.first());
    const auto gradient = team.hold(dy[team.row()] + team.first());
    const float r = team.read(rstd);
    float dot = 0;
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      const auto d = gradient.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      auto sums = dweight.at(slot, c);
      for (int k = 0; k < pack; ++k) {
        const float to_weight = float(d.v[k]) * float(a.v[k]) * r;
        sums.v[k] += to_weight;
        dot += to_weight * gain.v[k];
      }
      dweight.put(slot, c, sums);
    });
    if (!dx) continue;
    const float along = team.sum(dot) * r / static_cast<float>(s.n);
    X* const to = dx + team.row() * s.width + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      const auto d = gradient.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<X, pack> out{};
      if (accumulate) out = load_pack<pack>(to + c);
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<X>(float(out.v[k]) + r * (float(d.v[k]) * gain.v[k] - float(a.v[k]) * along));
      store_pack(to + c, out);
    });
  }
  dweight.leave(blockIdx.x * static_cast<int64_t>(s.n), s.n);
}

template <class X, class Y>
constexpr int kPack = 16 / std::max(sizeof(X), sizeof(Y));

template <class X, class Y>
void forward(const RmsNormForward& args) {
  const auto x = rows_of<X>(args.x);
  const auto y = rows_of<Y>(args.y);
  const float* const weight = args.weight.data<float>();
  const Stretches s = stretches(args.x, args.rstd);
  constexpr int wide = kPack<X, Y>;
  with_held_packs<wide, sizeof(X)>(s, packs(x, wide) && packs(y, wide) && packs(weight, 0, wide), [&]<int pack, int held>() {
    run(forward<pack, held, X, Y>, grid_for<pack, held>(s), s, x, y, rows_of<float>(args.rstd), weight, static_cast<float>(args.eps));
  });
}

template <class X, class Y>
void backward(const RmsNormBackward& args) {
  const auto x = rows_of<X>(args.x);
  const auto dy = rows_of<Y>(args.dy);
  const float* const weight = args.weight.data<float>();
  const Stretches s = stretches(args.x, args.rstd);
  X* const dx = args.dx ? args.dx.data<X>() : nullptr;
  constexpr int wide = kPack<X, Y>;
  const bool wide_packs = packs(x, wide) && packs(dy, wide) && packs(dx, s.width, wide) && packs(weight, 0, wide);
  with_held_packs<wide, sizeof(X) + sizeof(Y) + sizeof(float)>(s, wide_packs, [&]<int pack, int held>() {
    const Grid grid = grid_for_sums<pack, held>(s, false, args.dweight ? 1 : 0);
    const Parts dweight(args.dweight, grid);
    run(backward<pack, held, X, Y>, grid, s, dy, x, weight, rows_of<float>(args.rstd), dx, args.accumulate, dweight.data());
    dweight.add();
  });
}

}  // namespace

void launch(Cuda, const RmsNormForward& args) {
  dispatch_narrow(args.x.dtype(), args.y.dtype(), [&]<class X, class Y>() { forward<X, Y>(args); });
}

void launch(Cuda, const RmsNormBackward& args) {
  dispatch_narrow(args.x.dtype(), args.dy.dtype(), [&]<class X, class Y>() { backward<X, Y>(args); });
}

}  // namespace ropewalk
