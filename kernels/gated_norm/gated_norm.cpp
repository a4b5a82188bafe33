#include "kernels/gated_norm/gated_norm.h"

namespace ropewalk {

Var gated_norm(const Var& y, const Var& z, const Var& weight, int64_t groups, double eps) {
  expect(is_rows(y.data()), "gated_norm: y: expected rows [.., I] of one stride, given {}", y.shape());
  expect(z.shape() == y.shape() && z.dtype() == y.dtype(), "gated_norm: z: expected {} {} as y, given {} {}", y.dtype(), y.shape(),
         z.dtype(), z.shape());
  expect(is_rows(z.data()), "gated_norm: z: expected rows [.., I] of one stride, given {}", z.shape());
  expect(weight.shape() == Shape{y.dim(-1)} && weight.dtype() == wide(y.dtype()), "gated_norm: weight: expected {} [{}], given {} {}",
         wide(y.dtype()), y.dim(-1), weight.dtype(), weight.shape());
  expect(groups > 0 && y.dim(-1) % groups == 0, "gated_norm: groups: expected a divisor of {} (last dim of y), given {}", y.dim(-1),
         groups);
  const Tensor out = empty_like(y.data()), rstd = Tensor::empty(y.shape().with(-1, groups), wide(y.dtype()), y.data().device());
  launch(out.device(), GatedNormForward{.out = out, .rstd = rstd, .y = y.data(), .z = z.data(), .weight = weight.data(), .eps = eps});
  return record("gated_norm", {y, z, weight}, out, [y = y.data(), z = z.data(), weight, rstd](Backprop& b) {
    const Tensor dy = b.room(0, y), dz = b.room(1, z);
    const Tensor d_out = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    launch(dy.device(), GatedNormBackward{.dy = dy,
                                          .dz = dz,
                                          .dweight = b.wanted(2) ? b.sum_into(weight) : Tensor(),
                                          .d_out = d_out,
                                          .y = y,
                                          .z = z,
                                          .weight = weight.data(),
                                          .rstd = rstd});
    b.give(0, dy);
    b.give(1, dz);
  });
}

}  // namespace ropewalk
