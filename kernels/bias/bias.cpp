#include "kernels/bias/bias.h"

namespace ropewalk {

Var add_bias(const Var& x, const Var& bias) {
  expect(is_rows(x.data()), "add_bias: x: expected rows of one stride, given a view {} that is not", x.shape());
  expect(bias.shape() == Shape{x.dim(-1)} && bias.dtype() == x.dtype(), "add_bias: bias: expected {} [{}] (last dim of x {}), given {} {}",
         x.dtype(), x.dim(-1), x.shape(), bias.dtype(), bias.shape());
  const Tensor y = empty_like(x.data());
  launch(y.device(), AddBias{.y = y, .x = x.data(), .bias = bias.data()});
  return record("add_bias", {x, bias}, y, [bias](Backprop& b) {
    b.give(0, b.dy(0));
    if (!b.wanted(1)) return;
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    launch(dy.device(), BiasGradient{.dbias = b.sum_into(bias), .dy = dy});
  });
}

}  // namespace ropewalk
