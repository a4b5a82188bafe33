#include <algorithm>

#include "kernels/cuda/rows.cuh"
#include "kernels/gated_sum/gated_sum.h"

namespace ropewalk {
namespace {

using namespace cuda;

constexpr int kMostBranches = 8;
template <int most, class T>
constexpr int kPack = most == 2 ? kPackWidth<T> : 4;  // what fits in registers

// Up to `most` of them.
template <int most, class T>
struct Branches {
  Rows<T> of[most];
  int count;
};

template <int most, class T>
Branches<most, T> branches_of(const Tensors& x) {
  Branches<most, T> branches{.of = {}, .count = static_cast<int>(x.size())};
  for (size_t k = 0; k < x.size(); ++k) branches.of[k] = rows_of<T>(x[k]);
  return branches;
}

template <int n, int most, class T>
struct Loaded {
  Pack<T, n> x[most], logit[most];

  __device__ Loaded(const Branches<most, T>& branches, const Rows<T>& logits, int64_t row, int64_t column) : x{}, logit{} {
    for (int k = 0; k < most; ++k) {
      if (k >= branches.count) continue;
      x[k] = load_pack<n>(branches.of[k][row] + column);
      if (k + 1 < branches.count) logit[k] = load_pack<n>(logits[row] + k * branches.of[0].width + column);  // the last one's is 0
    }
  }
};

// The weights of one channel's branches, and their sum.
template <int most>
struct Mixture {
  float weight[most], y;

  template <int n, class T>
  __device__ Mixture(int count, const Loaded<n, most, T>& in, int channel) : weight{}, y(0) {
    float top = 0, sum = 0;
    for (int k = 0; k < most; ++k) top = fmaxf(top, float(in.logit[k].v[channel]));  // 0 where there is none
    for (int k = 0; k < most; ++k) {
      weight[k] = k < count ? __expf(float(in.logit[k].v[channel]) - top) : 0;
      sum += weight[k];
    }
    for (int k = 0; k < most; ++k) {
      weight[k] = __fdividef(weight[k], sum);
      y += weight[k] * float(in.x[k].v[channel]);
    }
  }
};

template <int n, int most, class T>
__global__ void forward(Rows<T> y, Rows<T> logits, Branches<most, T> x) {
  for_each_pack<n>(y.count, y.width, [&](int64_t row, int64_t column) {
    const Loaded<n, most, T> in(x, logits, row, column);
    Pack<T, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<T>(Mixture<most>(x.count, in, i).y);
    store_pack(y[row] + column, out);
  });
}

template <int n, int most, class T>
__global__ void backward(Rows<T> dlogits, Branches<most, T> dx, Rows<T> dy, Rows<T> logits, Branches<most, T> x) {
  for_each_pack<n>(dy.count, dy.width, [&](int64_t row, int64_t column) {
    const auto gradient = load_pack<n>(dy[row] + column);
    Loaded<n, most, T> in(x, logits, row, column);
    for (int i = 0; i < n; ++i) {
      const Mixture<most> mixture(x.count, in, i);
      for (int k = 0; k < most; ++k) {  // in place of what was read
        const float d = mixture.weight[k] * float(gradient.v[i]);
        in.logit[k].v[i] = static_cast<T>(d * (float(in.x[k].v[i]) - mixture.y));
        in.x[k].v[i] = static_cast<T>(d);
      }
    }
    for (int k = 0; k < most; ++k) {
      if (k >= x.count) continue;
      store_pack(dx.of[k][row] + column, in.x[k]);
      if (k + 1 < x.count) store_pack(dlogits[row] + k * dy.width + column, in.logit[k]);
    }
  });
}

// Whether all branches can be read n elements at a time.
template <int most, class T>
bool packs(const Branches<most, T>& branches, int n) {
  return std::all_of(branches.of, branches.of + branches.count, [&](const Rows<T>& rows) { return cuda::packs(rows, n); });
}

template <int most, class T>
void run(const GatedSumForward& args) {
  const auto y = rows_of<T>(args.y), logits = rows_of<T>(args.logits);
  const auto x = branches_of<most, T>(args.x);
  const auto with = [&]<int n>() { cuda::run(forward<n, most, T>, grid_for(args.y.numel() / n), y, logits, x); };
  constexpr int n = kPack<most, T>;
  cuda::packs(y, n) && cuda::packs(logits, n) && packs(x, n) ? with.template operator()<n>() : with.template operator()<1>();
}

template <int most, class T>
void run(const GatedSumBackward& args) {
  const auto dlogits = rows_of<T>(args.dlogits), dy = rows_of<T>(args.dy), logits = rows_of<T>(args.logits);
  const auto dx = branches_of<most, T>(args.dx), x = branches_of<most, T>(args.x);
  const auto with = [&]<int n>() { cuda::run(backward<n, most, T>, grid_for(args.dy.numel() / n), dlogits, dx, dy, logits, x); };
  constexpr int n = kPack<most, T>;
  cuda::packs(dlogits, n) && cuda::packs(dy, n) && cuda::packs(logits, n) && packs(dx, n) && packs(x, n) ? with.template operator()<n>()
                                                                                                         : with.template operator()<1>();
}

// Calls run<most, T>(args) for the number of branches and the element type.
template <class Args>
void dispatch(const Tensor& like, const Args& args) {
  expect(args.x.size() <= kMostBranches, "gated_sum: x: expected at most {} branches on a GPU, given {}", kMostBranches, args.x.size());
  if (like.numel() == 0) return;
  dispatch_narrow(like.dtype(),
                  [&]<class T>(std::type_identity<T>) { args.x.size() == 2 ? run<2, T>(args) : run<kMostBranches, T>(args); });
}

}  // namespace

void launch(Cuda, const GatedSumForward& args) { dispatch(args.y, args); }
void launch(Cuda, const GatedSumBackward& args) { dispatch(args.dy, args); }

}  // namespace ropewalk
