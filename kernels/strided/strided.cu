#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/strided/strided.h"

namespace ropewalk {
namespace {

using namespace cuda;

// The dims of two views, innermost first.
struct Walk {
  DimOfTwo dims[Shape::kMaxRank];
  int rank;
};

template <class To, class From>
struct Convert {
  static constexpr bool kReadsTarget = false, kReadsSource = true;
  __device__ To operator()(To, From source) const {
    using Via = std::conditional_t<std::is_same_v<To, bfloat16>, float, To>;
    return static_cast<To>(static_cast<Via>(source));
  }
};
template <class To, class From>
struct Sum {
  static constexpr bool kReadsTarget = true, kReadsSource = true;
  __device__ To operator()(To target, From source) const {
    using W = Wide<To>;
    return static_cast<To>(static_cast<W>(target) + static_cast<W>(source));
  }
};
template <class T>
struct Set {
  static constexpr bool kReadsTarget = false, kReadsSource = false;
  T value;
  __device__ T operator()(T, T) const { return value; }
};

// n neighbours along the innermost dim are one item.
template <int n, class To, class From, class Op>
__global__ void for_each_pair(int64_t items, Walk walk, To* to, const From* from, Op op) {
  for_each_item(items, [&](int64_t item) {
    int64_t rest = item, at_to = 0, at_from = 0;
    for (int d = 0; d < walk.rank; ++d) {
      const DimOfTwo& dim = walk.dims[d];
      const int64_t extent = d == 0 ? dim.extent / n : dim.extent, index = rest % extent * (d == 0 ? n : 1);
      rest /= extent;
      at_to += index * dim.x_stride;
      at_from += index * dim.y_stride;
    }
    Pack<To, n> target{};
    Pack<From, n> source{};
    if constexpr (Op::kReadsTarget) target = load_pack<n>(to + at_to);
    if constexpr (Op::kReadsSource) source = load_pack<n>(from + at_from);
    for (int i = 0; i < n; ++i) target.v[i] = op(target.v[i], source.v[i]);
    store_pack(to + at_to, target);
  });
}

// Whether both views can be walked n elements at a time.
template <class To, class From>
bool in_packs(const Walk& walk, const To* to, const From* from, int n) {
  const DimOfTwo& inner = walk.dims[0];
  if (inner.x_stride != 1 || inner.y_stride != 1 || inner.extent % n != 0) return false;
  for (int d = 1; d < walk.rank; ++d)
    if (!packs(to, walk.dims[d].x_stride, n) || !packs(from, walk.dims[d].y_stride, n)) return false;
  return packs(to, 0, n) && packs(from, 0, n);
}

template <class To, class From, class Op>
void for_each(const Tensor& x, const Tensor& y, Op op) {
  if (x.numel() == 0) return;
  const std::vector<DimOfTwo> dims = merged_dims(x, y);
  Walk walk{.dims = {}, .rank = static_cast<int>(dims.size())};
  std::copy(dims.rbegin(), dims.rend(), walk.dims);
  To* const to = x.data<To>();
  const From* const from = y.data<From>();
  constexpr int kPack = 16 / std::max(sizeof(To), sizeof(From));
  if (in_packs(walk, to, from, kPack))
    run(for_each_pair<kPack, To, From, Op>, grid_for(x.numel() / kPack), x.numel() / kPack, walk, to, from, op);
  else
    run(for_each_pair<1, To, From, Op>, grid_for(x.numel()), x.numel(), walk, to, from, op);
}

}  // namespace

void launch(Cuda, const Fill& args) {
  dispatch_any(args.to.dtype(), [&]<class T>(std::type_identity<T>) {
    for_each<T, T>(args.to, args.to, Set<T>{.value = static_cast<T>(static_cast<Wide<T>>(args.value))});
  });
}

void launch(Cuda, const Copy& args) {
  dispatch_conversion(args.to.dtype(), args.from.dtype(),
                      [&]<class To, class From>() { for_each<To, From>(args.to, args.from, Convert<To, From>{}); });
}

void launch(Cuda, const AddTo& args) {
  dispatch_float(args.sum.dtype(), [&]<class T>(std::type_identity<T>) {
    dispatch_float(args.addend.dtype(), [&]<class U>(std::type_identity<U>) { for_each<T, U>(args.sum, args.addend, Sum<T, U>{}); });
  });
}

}  // namespace ropewalk
