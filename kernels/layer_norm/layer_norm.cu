#include "kernels/cuda/stretches.cuh"
#include "kernels/layer_norm/layer_norm.h"

namespace ropewalk {
namespace {

using namespace cuda;

template <int pack, int held, class X, class Y>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    forward(Stretches s, Rows<X> x, Rows<Y> y, Rows<float> means, Rows<float> rstd, const float* weight, const float* bias, float eps) {
  SharedMemory shared;
  for (Team<pack, held> team(s, shared); team.goes_on(); team.go_on()) {
    const auto in = team.hold(x[team.row()]);
    float sum = 0;
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      for (int k = 0; k < pack; ++k) sum += float(a.v[k]);
    });
    const float mean = team.sum(sum) / static_cast<float>(s.n);
    float squares = 0;  // around the mean, which keeps the digits that a difference of large sums would lose
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      for (int k = 0; k < pack; ++k) squares += (float(a.v[k]) - mean) * (float(a.v[k]) - mean);
    });
    const float r = 1 / sqrtf(team.sum(squares) / static_cast<float>(s.n) + eps);
    team.write(means, mean);
    team.write(rstd, r);
    Y* const to = y[team.row()];
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      const auto gain = load_pack<pack>(weight + c), level = load_pack<pack>(bias + c);
      Pack<Y, pack> out;
      for (int k = 0; k < pack; ++k) out.v[k] = static_cast<Y>((float(a.v[k]) - mean) * r * gain.v[k] + level.v[k]);
      store_pack(to + c, out);
    });
  }
}

// dx and the parts may be null. Block b leaves its sums over its rows of dy * h and of dy in row b of the parts.
template <int pack, int held, class X, class Y>
__global__ void __launch_bounds__(kMostThreads<held>, kLeastBlocks<held>)
    backward(Stretches s, Rows<Y> dy, Rows<X> x, const float* weight, Rows<float> means, Rows<float> rstd, X* dx, bool accumulate,
             float* dweight_parts, float* dbias_parts) {
  SharedMemory shared;
  Team<pack, held> team(s, shared);
  ChannelSums<pack, held> dweight(s.n, dweight_parts, shared), dbias(s.n, dbias_parts, shared);
  for (; team.goes_on(); team.go_on()) {
    const auto in = team.hold(x[team.row()]);
    const auto gradient = team.hold(dy[team.row()]);
    const float mean = team.read(means), r = team.read(rstd);
    float sums[2] = {0, 0};  // of g, and of g * h
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      const auto d = gradient.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      auto for_weight = dweight.at(slot, c), for_bias = dbias.at(slot, c);
      for (int k = 0; k < pack; ++k) {
        const float to_bias = d.v[k], to_weight = to_bias * (float(a.v[k]) - mean) * r;
        for_bias.v[k] += to_bias;
        for_weight.v[k] += to_weight;
        sums[0] += to_bias * gain.v[k];
        sums[1] += to_weight * gain.v[k];
      }
      dweight.put(slot, c, for_weight);
      dbias.put(slot, c, for_bias);
    });
    if (!dx) continue;
    team.sum(sums);
    const float level = sums[0] / static_cast<float>(s.n), along = sums[1] * r / static_cast<float>(s.n);
    X* const to = dx + team.row() * s.n;
    team.each_pack([&](int slot, int c) {
      const auto a = in.at(slot, c);
      const auto d = gradient.at(slot, c);
      const auto gain = load_pack<pack>(weight + c);
      Pack<X, pack> out{};
      if (accumulate) out = load_pack<pack>(to + c);
      for (int k = 0; k < pack; ++k)
        out.v[k] = static_cast<X>(float(out.v[k]) + r * (float(d.v[k]) * gain.v[k] - level - (float(a.v[k]) - mean) * along));
      store_pack(to + c, out);
    });
  }
  const int64_t part = blockIdx.x * static_cast<int64_t>(s.n);
  dweight.leave(part, s.n);
  dbias.leave(part, s.n);
}

// A statistic a row, [..], as rows of one.
Rows<float> a_row(const Tensor& statistic) {
  return {.data = statistic.data<float>(), .count = statistic.numel(), .width = 1, .stride = 1};
}

Stretches whole_rows(const Tensor& x, const Tensor& statistic) {
  const int width = static_cast<int>(x.dim(-1));
  return {.rows = statistic.numel(), .width = width, .places = 1, .n = width};
}

template <class X, class Y>
constexpr int kPack = 16 / std::max(sizeof(X), sizeof(Y));

template <class X, class Y>
void forward(const LayerNormForward& args) {
  const auto x = rows_of<X>(args.x);
  const auto y = rows_of<Y>(args.y);
  const float *const weight = args.weight.data<float>(), *const bias = args.bias.data<float>();
  const Stretches s = whole_rows(args.x, args.mean);
  constexpr int wide = kPack<X, Y>;
  const bool wide_packs = packs(x, wide) && packs(y, wide) && packs(weight, 0, wide) && packs(bias, 0, wide);
  with_held_packs<wide, sizeof(X)>(s, wide_packs, [&]<int pack, int held>() {
    run(forward<pack, held, X, Y>, grid_for<pack, held>(s), s, x, y, a_row(args.mean), a_row(args.rstd), weight, bias,
        static_cast<float>(args.eps));
  });
}

template <class X, class Y>
void backward(const LayerNormBackward& args) {
  const auto x = rows_of<X>(args.x);
  const auto dy = rows_of<Y>(args.dy);
  const float* const weight = args.weight.data<float>();
  const Stretches s = whole_rows(args.x, args.mean);
  X* const dx = args.dx ? args.dx.data<X>() : nullptr;
  constexpr int wide = kPack<X, Y>;
  const bool wide_packs = packs(x, wide) && packs(dy, wide) && packs(dx, s.width, wide) && packs(weight, 0, wide);
  with_held_packs<wide, sizeof(X) + sizeof(Y) + 2 * sizeof(float)>(s, wide_packs, [&]<int pack, int held>() {
    const Grid grid = grid_for_sums<pack, held>(s, false, bool(args.dweight) + bool(args.dbias));
    const Parts dweight(args.dweight, grid), dbias(args.dbias, grid);
    run(backward<pack, held, X, Y>, grid, s, dy, x, weight, a_row(args.mean), a_row(args.rstd), dx, args.accumulate, dweight.data(),
        dbias.data());
    dweight.add();
    dbias.add();
  });
}

}  // namespace

void launch(Cuda, const LayerNormForward& args) {
  dispatch_narrow(args.x.dtype(), args.y.dtype(), [&]<class X, class Y>() { forward<X, Y>(args); });
}

void launch(Cuda, const LayerNormBackward& args) {
  dispatch_narrow(args.x.dtype(), args.dy.dtype(), [&]<class X, class Y>() { backward<X, Y>(args); });
}

}  // namespace ropewalk
