#include "kernels/cuda/math.cuh"
#include "kernels/cuda/stretches.cuh"
#include "kernels/gated_rms_norm/gated_rms_norm.h"

namespace ropewalk {
namespace {

using namespace cuda;

// 1 / sqrt(square_sum / group_width + eps)
struct ReciprocalRms {
  float group_width, eps;
  __device__ float operator()(float square_sum) const { return 1 / sqrtf(square_sum / group_width + eps); }
};

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    gated_square_sums(Stretches s, Rows<T> y, Rows<T> z, Rows<float> sums) {
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
    team.write(sums, team.sum(squares));
  }
}

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    gated_square_sums_backward(Stretches s, Rows<float> d_sums, Rows<T> y, Rows<T> z, Rows<T> dy, Rows<T> dz) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto ys = team.hold(y[team.row()] + team.first()), zs = team.hold(z[team.row()] + team.first());
    const float twice = 2 * team.read(d_sums);
    T *const to_y = dy[team.row()] + team.first(), *const to_z = dz[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = ys.at(slot, c), gate = zs.at(slot, c);
      Pack<T, pack> of_y, of_z;
      for (int k = 0; k < pack; ++k) {
        const Silu g = silu(gate.v[k]);
        const float du = twice * float(a.v[k]) * g.value;
        of_y.v[k] = static_cast<T>(du * g.value);
        of_z.v[k] = static_cast<T>(du * float(a.v[k]) * g.slope);
      }
      store_pack(to_y + c, of_y);
      store_pack(to_z + c, of_z);
    });
  }
}

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>) square_sums(Stretches s, Rows<T> y, Rows<float> sums) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto ys = team.hold(y[team.row()] + team.first());
    float squares = 0;
    team.each_pack([&](int slot, int c) {
      const auto a = ys.at(slot, c);
      for (int k = 0; k < pack; ++k) squares += float(a.v[k]) * float(a.v[k]);
    });
    team.write(sums, team.sum(squares));
  }
}

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    square_sums_backward(Stretches s, Rows<float> d_sums, Rows<T> y, Rows<T> dy) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto ys = team.hold(y[team.row()] + team.first());
    const float twice = 2 * team.read(d_sums);
    T* const to = dy[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = ys.at(slot, c);
      Pack<T, pack> out;
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<T>(twice * float(a.v[k]));
      store_pack(to + c, out);
    });
  }
}

template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    normalize(Stretches s, Rows<T> y, Rows<T> z, const float* weight, Rows<float> square_sums, ReciprocalRms reciprocal, Rows<T> out) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto ys = team.hold(y[team.row()] + team.first()), zs = team.hold(z[team.row()] + team.first());
    const float r = reciprocal(team.read(square_sums));
    T* const to = out[team.row()] + team.first();
    team.each_pack([&](int slot, int c) {
      const auto a = ys.at(slot, c), gate = zs.at(slot, c);
      const auto gain = load_pack<pack>(weight + team.first() + c);
      Pack<T, pack> result;
      for (int k = 0; k < pack; ++k) result.v[k] = static_cast<T>(float(a.v[k]) * silu(gate.v[k]).value * gain.v[k] * r);
      store_pack(to + c, result);
    });
  }
}

// parts may be null. Block (b, group) leaves its sums over its rows of d_out u r in the group's channels of parts[b][I].
template <int pack, int held, class T>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    normalize_backward(Stretches s, Rows<T> d_out, Rows<T> y, Rows<T> z, const float* weight, Rows<float> square_sums,
                       ReciprocalRms reciprocal, Rows<T> dy, Rows<T> dz, Rows<float> d_square_sums, float* parts) {
  SharedMemory shared;
  Team<pack, held> team(s, shared);
  ChannelSums<pack, held> dweight(s.n, parts, shared);
  weight += team.first();
  for (; team.goes_on(); team.go_on()) {
    const auto ds = team.hold(d_out[team.row()] + team.first()), ys = team.hold(y[team.row()] + team.first()),
               zs = team.hold(z[team.row()] + team.first());
    const float r = reciprocal(team.read(square_sums));
    T *const to_y = dy[team.row()] + team.first(), *const to_z = dz[team.row()] + team.first();
    float along = 0;  // sum of d_out weight u r
    team.each_pack([&](int slot, int c) {
      const auto d = ds.at(slot, c), a = ys.at(slot, c), gate = zs.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<T, pack> of_y, of_z;
      auto sums = dweight.at(slot, c);
      for (int k = 0; k < pack; ++k) {
        const Silu g = silu(gate.v[k]);
        const float du = float(d.v[k]) * gain.v[k] * r;
        of_y.v[k] = static_cast<T>(du * g.value);
        of_z.v[k] = static_cast<T>(du * float(a.v[k]) * g.slope);
        const float to_weight = float(d.v[k]) * float(a.v[k]) * g.value * r;
        sums.v[k] += to_weight;
        along += to_weight * gain.v[k];
      }
      store_pack(to_y + c, of_y);
      store_pack(to_z + c, of_z);
      dweight.put(slot, c, sums);
    });
    team.write(d_square_sums, -team.sum(along) * r * r / (2 * reciprocal.group_width));
  }
  dweight.leave(blockIdx.x * static_cast<int64_t>(s.width) + team.first(), s.n);
}

template <class T>
void launch_on_gpu(const GatedSquareSumForward& args) {
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z);
  const Stretches s = stretches(args.y, args.square_sum);
  constexpr int wide = kPackWidth<T>;
  with_held_packs<wide, 2 * sizeof(T)>(s, packs(y, wide) && packs(z, wide), [&]<int pack, int held>() {
    run(gated_square_sums<pack, held, T>, grid_for<pack, held>(s), s, y, z, rows_of<float>(args.square_sum));
  });
}

template <class T>
void launch_on_gpu(const GatedSquareSumBackward& args) {
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z), dy = rows_of<T>(args.dy), dz = rows_of<T>(args.dz);
  const Stretches s = stretches(args.y, args.d_square_sum);
  constexpr int wide = kPackWidth<T>;
  const bool wide_packs = packs(y, wide) && packs(z, wide) && packs(dy, wide) && packs(dz, wide);
  with_held_packs<wide, 2 * sizeof(T)>(s, wide_packs, [&]<int pack, int held>() {
    run(gated_square_sums_backward<pack, held, T>, grid_for<pack, held>(s), s, rows_of<float>(args.d_square_sum), y, z, dy, dz);
  });
}

template <class T>
void launch_on_gpu(const SquareSumForward& args) {
  const auto y = rows_of<T>(args.y);
  const Stretches s = stretches(args.y, args.square_sum);
  with_held_packs<kPackWidth<T>, sizeof(T)>(s, packs(y, kPackWidth<T>), [&]<int pack, int held>() {
    run(square_sums<pack, held, T>, grid_for<pack, held>(s), s, y, rows_of<float>(args.square_sum));
  });
}

template <class T>
void launch_on_gpu(const SquareSumBackward& args) {
  const auto y = rows_of<T>(args.y), dy = rows_of<T>(args.dy);
  const Stretches s = stretches(args.y, args.d_square_sum);
  with_held_packs<kPackWidth<T>, sizeof(T)>(s, packs(y, kPackWidth<T>) && packs(dy, kPackWidth<T>), [&]<int pack, int held>() {
    run(square_sums_backward<pack, held, T>, grid_for<pack, held>(s), s, rows_of<float>(args.d_square_sum), y, dy);
  });
}

template <class Args>
ReciprocalRms reciprocal_rms(const Args& args) {
  return {.group_width = static_cast<float>(args.group_width), .eps = static_cast<float>(args.eps)};
}

template <class T>
void launch_on_gpu(const GatedRmsNormForward& args) {
  const auto y = rows_of<T>(args.y), z = rows_of<T>(args.z), out = rows_of<T>(args.out);
  const float* const weight = args.weight.data<float>();
  const Stretches s = stretches(args.y, args.square_sum);
  constexpr int wide = kPackWidth<T>;
  const bool wide_packs = packs(y, wide) && packs(z, wide) && packs(out, wide) && packs(weight, 0, wide);
  with_held_packs<wide, 2 * sizeof(T)>(s, wide_packs, [&]<int pack, int held>() {
    run(normalize<pack, held, T>, grid_for<pack, held>(s), s, y, z, weight, rows_of<float>(args.square_sum), reciprocal_rms(args), out);
  });
}

template <class T>
void launch_on_gpu(const GatedRmsNormBackward& args) {
  const auto d_out = rows_of<T>(args.d_out), y = rows_of<T>(args.y), z = rows_of<T>(args.z), dy = rows_of<T>(args.dy),
             dz = rows_of<T>(args.dz);
  const float* const weight = args.weight.data<float>();
  const Stretches s = stretches(args.y, args.square_sum);
  constexpr int wide = kPackWidth<T>;
  const bool wide_packs =
      packs(d_out, wide) && packs(y, wide) && packs(z, wide) && packs(dy, wide) && packs(dz, wide) && packs(weight, 0, wide);
  with_held_packs<wide, 3 * sizeof(T) + sizeof(float)>(s, wide_packs, [&]<int pack, int held>() {
    const Grid grid = grid_for_sums<pack, held>(s, true, args.dweight ? 1 : 0);
    const Parts dweight(args.dweight, grid);
    run(normalize_backward<pack, held, T>, grid, s, d_out, y, z, weight, rows_of<float>(args.square_sum), reciprocal_rms(args), dy, dz,
        rows_of<float>(args.d_square_sum), dweight.data());
    dweight.add();
  });
}

template <class Args>
void dispatch(const Args& args) {
  dispatch_narrow(args.y.dtype(), [&]<class T>(std::type_identity<T>) { launch_on_gpu<T>(args); });
}

}  // namespace

void launch(Cuda, const GatedSquareSumForward& args) { dispatch(args); }
void launch(Cuda, const GatedSquareSumBackward& args) { dispatch(args); }
void launch(Cuda, const SquareSumForward& args) { dispatch(args); }
void launch(Cuda, const SquareSumBackward& args) { dispatch(args); }
void launch(Cuda, const GatedRmsNormForward& args) { dispatch(args); }
void launch(Cuda, const GatedRmsNormBackward& args) { dispatch(args); }

}  // namespace ropewalk
