#include "kernels/strided/strided.h"

namespace ropewalk {

std::vector<DimOfTwo> merged_dims(const Tensor& x, const Tensor& y) {
  std::vector<DimOfTwo> dims;
  for (int d = 0; d < x.rank(); ++d) {
    const DimOfTwo inner{x.dim(d), x.stride(d), y.stride(d)};
    if (inner.extent == 1) continue;
    if (!dims.empty() && dims.back().x_stride == inner.extent * inner.x_stride && dims.back().y_stride == inner.extent * inner.y_stride)
      dims.back() = {dims.back().extent * inner.extent, inner.x_stride, inner.y_stride};
    else
      dims.push_back(inner);
  }
  if (dims.empty()) dims.push_back({1, 1, 1});
  return dims;
}

}  // namespace ropewalk
