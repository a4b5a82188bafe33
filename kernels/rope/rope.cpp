#include "kernels/rope/rope.h"

namespace ropewalk {

Var rope(const Var& x, const Tensor& position, const RopeOptions& options) {
  expect(x.data().rank() == 4 && x.dim(-1) % 2 == 0 && x.data().stride(-1) == 1,
         "rope: x: expected [B, S, H, P] with an even, dense last dim, given {}", x.shape());
  expect(position.shape() == x.shape().first(2) && position.dtype() == DType::kInt64, "rope: position: expected int64 {}, given {} {}",
         x.shape().first(2), position.dtype(), position.shape());
  const Tensor y = empty_like(x.data());
  launch(y.device(), Rope{.y = y, .x = x.data(), .position = position, .theta = options.theta, .turn = 1});
  return record("rope", {x}, y, [position, theta = options.theta](Backprop& b) {
    const Tensor dy = b.dy(0).stride(-1) == 1 ? b.dy(0) : b.dy(0).contiguous_copy();
    const Tensor dx = empty_like(dy);
    launch(dx.device(), Rope{.y = dx, .x = dy, .position = position, .theta = theta, .turn = -1});
    b.give(0, dx);
  });
}

}  // namespace ropewalk
