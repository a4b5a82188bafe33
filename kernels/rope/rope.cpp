#include "kernels/rope/rope.h"

#include <cmath>

namespace ropewalk {

std::optional<int64_t> rotated_channels(const RopeOptions& options, int64_t head_dim) {
  const double channels = options.fraction * static_cast<double>(head_dim), whole = std::round(channels);
  const auto rotated = static_cast<int64_t>(whole);
  // A fraction like 0.3 is not exact in binary.
  if (std::abs(channels - whole) > 1e-6 || rotated % 2 != 0 || rotated > head_dim) return {};
  return rotated;
}

Var rope(const Var& x, const Tensor& position, const RopeOptions& options) {
  expect(x.data().rank() == 4 && x.data().stride(-1) == 1, "rope: x: expected [B, S, H, P] with a dense last dim, given {}", x.shape());
  const auto rotated = rotated_channels(options, x.dim(-1));
  expect(rotated.has_value(), "rope: fraction: expected an even part of the {} channels of a head, given {}", x.dim(-1), options.fraction);
  expect(position.shape() == x.shape().first(2) && position.dtype() == DType::kInt64, "rope: position: expected int64 {}, given {} {}",
         x.shape().first(2), position.dtype(), position.shape());
  const Tensor y = empty_like(x.data()), there = position.to(y.device());
  launch(y.device(), Rope{.y = y, .x = x.data(), .position = there, .rotated = *rotated, .theta = options.theta, .turn = 1});
  return record("rope", {x}, y, [position = there, rotated = *rotated, theta = options.theta](Backprop& b) {
    const Tensor dy = b.dy(0).stride(-1) == 1 ? b.dy(0) : b.dy(0).contiguous_copy();
    const Tensor dx = b.room(0, dy);
    launch(dx.device(), Rope{.y = dx, .x = dy, .position = position, .rotated = rotated, .theta = theta, .turn = -1});
    b.give(0, dx);
  });
}

}  // namespace ropewalk
