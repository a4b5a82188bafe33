#include "kernels/scale_segments/scale_segments.h"

#include <numeric>

namespace ropewalk {
namespace {

Tensor scaled(const Tensor& x, const std::vector<Segment>& segments) {
  const Tensor y = empty_like(x);
  launch(y.device(), ScaleSegments{.y = y, .x = is_rows(x) ? x : x.contiguous_copy(), .segments = segments});
  return y;
}

}  // namespace

Var scale_segments(const Var& x, const std::vector<Segment>& segments) {
  const int64_t sum =
      std::accumulate(segments.begin(), segments.end(), int64_t{0}, [](int64_t n, const Segment& s) { return n + s.width; });
  expect(x.data().rank() > 0 && sum == x.dim(-1), "scale_segments: segments: expected widths whose sum is the last dim of x {}, given {}",
         x.shape(), sum);
  return record("scale_segments", {x}, scaled(x.data(), segments), [segments](Backprop& b) { b.give(0, scaled(b.dy(0), segments)); });
}

}  // namespace ropewalk
