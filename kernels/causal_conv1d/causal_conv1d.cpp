#include "kernels/causal_conv1d/causal_conv1d.h"

namespace ropewalk {
namespace {

void check(const Var& x, const Var& weight, const Var& bias, const Var& halo, const Runs& runs) {
  expect(x.shape().rank() == 3, "causal_conv1d: x: expected [B, S, C], given {}", x.shape());
  const int64_t channels = x.dim(2);
  expect(weight.shape().rank() == 2 && weight.dim(0) == channels && weight.dim(1) >= 1 && weight.dtype() == x.dtype(),
         "causal_conv1d: weight: expected {} [{}, W], given {} {}", x.dtype(), channels, weight.dtype(), weight.shape());
  expect(bias.shape() == Shape{channels} && bias.dtype() == x.dtype(), "causal_conv1d: bias: expected {} [{}], given {} {}", x.dtype(),
         channels, bias.dtype(), bias.shape());
  expect_runs_cover("causal_conv1d", runs, x.dim(0), x.dim(1));
  if (!halo) return;
  const Shape expected{halo.dim(0), weight.dim(1) - 1, channels};
  expect(halo.shape() == expected && halo.dtype() == x.dtype(), "causal_conv1d: halo: expected {} {}, given {} {}", x.dtype(), expected,
         halo.dtype(), halo.shape());
  for (const Run& run : runs)
    expect(run.enters < halo.dim(0), "causal_conv1d: runs: expected to enter from one of {} rows of halo, given {}", halo.dim(0),
           run.enters);
}

}  // namespace

Var causal_conv1d_silu(const Var& x, const Var& weight, const Var& bias, const Var& halo, const Runs& runs) {
  check(x, weight, bias, halo, runs);
  const Tensor before = halo ? halo.data().packed() : Tensor();
  const Tensor y = empty_like(x.data());
  launch(y.device(),
         CausalConv1dForward{.y = y, .x = x.data(), .weight = weight.data(), .bias = bias.data(), .halo = before, .runs = runs});
  return record("causal_conv1d_silu", {x, weight, bias, halo}, y, [x = x.data(), weight, bias, before, runs](Backprop& b) {
    const Tensor dx = b.room(0, x), none;
    const Tensor d_halo = b.wanted(3) ? Tensor::zeros(before.shape(), wide(x.dtype()), x.device()) : none;
    launch(dx.device(), CausalConv1dBackward{.dx = dx,
                                             .d_halo = d_halo,
                                             .d_weight = b.wanted(1) ? b.sum_into(weight) : none,
                                             .d_bias = b.wanted(2) ? b.sum_into(bias) : none,
                                             .dy = b.dy(0),
                                             .x = x,
                                             .weight = weight.data(),
                                             .bias = bias.data(),
                                             .halo = before,
                                             .runs = runs});
    b.give(0, dx);
    if (d_halo) b.give(3, d_halo.to(x.dtype()));
  });
}

}  // namespace ropewalk
