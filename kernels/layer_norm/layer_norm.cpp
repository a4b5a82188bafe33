#include "kernels/layer_norm/layer_norm.h"

namespace ropewalk {
namespace {

void expect_parameter(const char* name, const Var& parameter, const Var& x) {
  expect(parameter.shape() == Shape{x.dim(-1)} && parameter.dtype() == wide(x.dtype()), "layer_norm: {}: expected {} [{}], given {} {}",
         name, wide(x.dtype()), x.dim(-1), parameter.dtype(), parameter.shape());
}

}  // namespace

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps, DType out) {
  expect(is_rows(x.data()), "layer_norm: x: expected rows [.., C] of one stride, given {}", x.shape());
  expect_parameter("weight", weight, x);
  expect_parameter("bias", bias, x);
  expect(wide(out) == wide(x.dtype()), "layer_norm: out: expected a dtype as wide as that of x ({}), given {}", x.dtype(), out);
  const Tensor y = Tensor::empty(x.shape(), out, x.data().device());
  const Tensor mean = Tensor::empty(x.shape().first(x.data().rank() - 1), wide(x.dtype()), x.data().device()), rstd = empty_like(mean);
  launch(y.device(),
         LayerNormForward{.y = y, .mean = mean, .rstd = rstd, .x = x.data(), .weight = weight.data(), .bias = bias.data(), .eps = eps});
  return record("layer_norm", {x, weight, bias}, y, [x = x.data(), weight, bias, mean, rstd](Backprop& b) {
    const Tensor sum = b.take(0), dx = sum || !b.wanted(0) ? sum : empty_like(x);
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    launch(dy.device(), LayerNormBackward{.dx = dx,
                                          .accumulate = bool(sum),
                                          .dweight = b.wanted(1) ? b.sum_into(weight) : Tensor(),
                                          .dbias = b.wanted(2) ? b.sum_into(bias) : Tensor(),
                                          .dy = dy,
                                          .x = x,
                                          .weight = weight.data(),
                                          .mean = mean,
                                          .rstd = rstd});
    b.give(0, dx);
  });
}

}  // namespace ropewalk
