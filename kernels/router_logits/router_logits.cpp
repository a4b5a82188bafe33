#include "kernels/router_logits/router_logits.h"

namespace ropewalk {

Var router_logits(const Var& x, const Var& weight, const Var& bias) {
  const DType dtype = wide(x.dtype());
  expect(x.data().rank() > 0 && is_rows(x.data()), "router_logits: x: expected rows of one stride, given a view {} that is not", x.shape());
  expect(weight.data().rank() == 2 && weight.dim(1) == x.dim(-1) && weight.dtype() == dtype,
         "router_logits: weight: expected {} [*, {}] (last dim of x {}), given {} {}", dtype, x.dim(-1), x.shape(), weight.dtype(),
         weight.shape());
  expect(!bias || (bias.shape() == Shape{weight.dim(0)} && bias.dtype() == dtype), "router_logits: bias: expected {} [{}], given {} {}",
         dtype, weight.dim(0), bias ? bias.dtype() : dtype, bias ? bias.shape() : Shape());
  const Tensor y = Tensor::empty(x.shape().with(-1, weight.dim(0)), dtype, x.data().device());
  launch(y.device(), RouterLogitsForward{.y = y, .x = x.data(), .weight = weight.data(), .bias = bias ? bias.data() : Tensor()});

  Vars inputs = {x, weight};
  if (bias) inputs.push_back(bias);
  return record("router_logits", inputs, y, [x = x.data(), weight, bias](Backprop& b) {
    const Tensor dy = b.dy(0).packed();
    if (b.wanted(0)) {
      const Tensor dx = empty_like(x);
      launch(dx.device(), RouterLogitsBackwardInput{.dx = dx, .dy = dy, .weight = weight.data()});
      b.give(0, dx);
    }
    const bool weight_wanted = b.wanted(1), bias_wanted = bias && b.wanted(2);
    if (!weight_wanted && !bias_wanted) return;
    b.later([=](Backprop& later) {
      launch(dy.device(), RouterLogitsBackwardWeight{.dweight = weight_wanted ? later.sum_into(weight) : Tensor(),
                                                     .dbias = bias_wanted ? later.sum_into(bias) : Tensor(),
                                                     .dy = dy,
                                                     .x = x});
    });
  });
}

}  // namespace ropewalk
