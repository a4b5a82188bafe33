#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/scale_segments/scale_segments.h"

namespace ropewalk {
namespace {

using namespace cuda;

struct Stretch {
  int64_t end;  // column behind it
  float factor;
};

// A pack lies inside one stretch. They are few.
template <int n, class T>
__global__ void scale(Rows<T> y, Rows<T> x, const Stretch* stretches) {
  for_each_pack<n>(y.count, y.width, [&](int64_t row, int64_t column) {
    const auto in = load_pack<n>(x[row] + column);
    const Stretch* stretch = stretches;
    while (column >= stretch->end) ++stretch;
    const float factor = stretch->factor;
    Pack<T, n> out;
    for (int i = 0; i < n; ++i) out.v[i] = static_cast<T>(factor * float(in.v[i]));
    store_pack(y[row] + column, out);
  });
}

template <class T>
void scale(const ScaleSegments& args) {
  const auto y = rows_of<T>(args.y), x = rows_of<T>(args.x);
  constexpr int kPack = kPackWidth<T>;
  std::vector<Stretch> stretches;
  int64_t end = 0;
  bool whole_packs = packs(y, kPack) && packs(x, kPack);
  for (const Segment& segment : args.segments) {
    end += segment.width;
    stretches.push_back({.end = end, .factor = static_cast<float>(segment.factor)});
    whole_packs = whole_packs && end % kPack == 0;
  }
  const auto table = upload(stretches);
  const auto with = [&]<int n>() { run(scale<n, T>, grid_for(args.y.numel() / n), y, x, table.data); };
  whole_packs ? with.template operator()<kPack>() : with.template operator()<1>();
}

}  // namespace

void launch(Cuda, const ScaleSegments& args) {
  if (args.y.numel() == 0) return;
  dispatch_narrow(args.y.dtype(), [&]<class T>(std::type_identity<T>) { scale<T>(args); });
}

}  // namespace ropewalk
