#include "kernels/rms_norm/rms_norm.h"

namespace ropewalk {

Var rms_norm(const Var& x, const Var& weight, double eps, DType out) {
  expect(is_rows(x.data()), "rms_norm: x: expected rows [.., C] of one stride, given {}", x.shape());
  expect(weight.shape() == Shape{x.dim(-1)} && weight.dtype() == wide(x.dtype()), "rms_norm: weight: expected {} [{}], given {} {}",
         wide(x.dtype()), x.dim(-1), weight.dtype(), weight.shape());
  expect(wide(out) == wide(x.dtype()), "rms_norm: out: expected a dtype as wide as that of x ({}), given {}", x.dtype(), out);
  const Tensor y = Tensor::empty(x.shape(), out, x.data().device());
  const Tensor rstd = Tensor::empty(x.shape().first(x.data().rank() - 1), wide(x.dtype()), x.data().device());
  launch(y.device(), RmsNormForward{.y = y, .rstd = rstd, .x = x.data(), .weight = weight.data(), .eps = eps});
  return record("rms_norm", {x, weight}, y, [x = x.data(), weight, rstd](Backprop& b) {
    const Tensor dx = b.wanted(0) ? empty_like(x) : Tensor();
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    launch(dy.device(),
           RmsNormBackward{
               .dx = dx, .dweight = b.wanted(1) ? b.sum_into(weight) : Tensor(), .dy = dy, .x = x, .weight = weight.data(), .rstd = rstd});
    b.give(0, dx);
  });
}

}  // namespace ropewalk
