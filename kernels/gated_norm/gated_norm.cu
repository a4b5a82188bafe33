#include "kernels/cuda/math.cuh"
#include "kernels/cuda/stretches.cuh"
#include "kernels/gated_norm/gated_norm.h"

namespace ropewalk {
namespace {

using namespace cuda;

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    forward(Stretches s, Rows<T> y, Rows<T> z, Rows<T> out, Rows<float> rstd, const float* weight, float eps) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto ys = team.hold(y[team.row()] + team.first()), zs = team.hold(z[team.row()] + team.first());
    float squares = 0;
    team.each_pack([&](int slot, int c) {
      const auto a = ys.at(slot, c), gate = zs.at(slot, c);
      for (int k = 0; k < pack; ++k) {
        const float u = float(a.v[k]) * silu(gate.v[k]).value;
        squares += u * u;
      }
    });
    const float r = 1 / sqrtf(team.sum(squares) / static_cast<float>(s.n) + eps);
    team.write(rstd, r);
    T* const to = out[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = ys.at(slot, c), gate = zs.at(slot, c);
      const auto gain = load_pack<pack>(weight + team.first() + c);
      Pack<T, pack> result;
      for (int k = 0; k < pack; ++k) result.v[k] = static_cast<T>(float(a.v[k]) * silu(gate.v[k]).value * r * gain.v[k]);
      store_pack(to + c, result);
    });
  }
}

// parts may be null. Block (b, group) leaves its sums over its rows of d_out u rstd in the group's channels of parts[b][I].
template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    backward(Stretches s, Rows<T> d_out, Rows<T> y, Rows<T> z, Rows<float> rstd, const float* weight, Rows<T> dy, Rows<T> dz,
             float* parts) {
  SharedMemory shared;
  Team<pack, held> team(s, shared);
  ChannelSums<pack, held> dweight(s.n, parts, shared);
  weight += team.first();
  for (; team.goes_on(); team.go_on()) {
    const auto ds = team.hold(d_out[team.row()] + team.first()), ys = team.hold(y[team.row()] + team.first()),
               zs = team.hold(z[team.row()] + team.first());
    const float r = team.read(rstd);
    float dot = 0;
    team.each_pack([&](int slot, int c) {
      const auto d = ds.at(slot, c), a = ys.at(slot, c), gate = zs.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      auto sums = dweight.at(slot, c);
      for (int k = 0; k < pack; ++k) {
        const float to_weight = float(d.v[k]) * float(a.v[k]) * silu(gate.v[k]).value * r;
        sums.v[k] += to_weight;
        dot += to_weight * gain.v[k];
      }
      dweight.put(slot, c, sums);
    });
    const float along = team.sum(dot) * r / static_cast<float>(s.n);
    T *const to_y = dy[team.row()] + team.first(), *const to_z = dz[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto d = ds.at(slot, c), a = ys.at(slot, c), gate = zs.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<T, pack> of_y, of_z;
      for (int k = 0; k < pack; ++k) {
        const Silu g = silu(gate.v[k]);
        const float du = r * (float(d.v[k]) * gain.v[k] - float(a.v[k]) * g.value * along);
        of_y.v[k] = static_cast<T>(du * g.value);
        of_z.v[k] = static_cast<T>(du * float(a.v[k]) * g.slope);
      }
      store_pack(to_y + c, of_y);
      store_pack(to_z + c, of_z);
    });
  }
  dweight.leave(blockIdx.x * static_cast<int64_t>(s.width) + team.first(), s.n);
}

template <class T>
void launch_on_gpu(const GatedNormForward& args) {
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z), out = rows_of<T>(args.out);
  const float* const weight = args.weight.data<float>();
  const Stretches s = stretches(args.y, args.rstd);
  constexpr int wide = kPackWidth<T>;
  const bool wide_packs = packs(y, wide) && packs(z, wide) && packs(out, wide) && packs(weight, 0, wide);
  with_held_packs<wide, 2 * sizeof(T)>(s, wide_packs, [&]<int pack, int held>() {
    run(forward<pack, held, T>, grid_for<pack, held>(s), s, y, z, out, rows_of<float>(args.rstd), weight, static_cast<float>(args.eps));
  });
}

template <class T>
void launch_on_gpu(const GatedNormBackward& args) {
  const auto d_out = rows_of<T>(args.d_out), y = rows_of<T>(args.y), z = rows_of<T>(args.z), dy = rows_of<T>(args.dy),
             dz = rows_of<T>(args.dz);
  const float* const weight = args.weight.data<float>();
  const Stretches s = stretches(args.y, args.rstd);
  constexpr int wide = kPackWidth<T>;
  const bool wide_packs =
      packs(d_out, wide) && packs(y, wide) && packs(z, wide) && packs(dy, wide) && packs(dz, wide) && packs(weight, 0, wide);
  with_held_packs<wide, 3 * sizeof(T) + sizeof(float)>(s, wide_packs, [&]<int pack, int held>() {
    const Grid grid = grid_for_sums<pack, held>(s, true, args.dweight ? 1 : 0);
    const Parts dweight(args.dweight, grid);
    run(backward<pack, held, T>, grid, s, d_out, y, z, rows_of<float>(args.rstd), weight, dy, dz, dweight.data());
    dweight.add();
  });
}

template <class Args>
void dispatch(const Args& args) {
  dispatch_narrow(args.y.dtype(), [&]<class T>(std::type_identity<T>) { launch_on_gpu<T>(args); });
}

}  // namespace

void launch(Cuda, const GatedNormForward& args) { dispatch(args); }
void launch(Cuda, const GatedNormBackward& args) { dispatch(args); }

}  // namespace ropewalk
