#include "kernels/rms_norm/rms_norm.h"

namespace ropewalk {
namespace {

// What a normalised channel is multiplied by.
Tensor gain_of(const Var& weight, bool zero_centered) {
  if (!zero_centered) return weight.data();
  const Tensor gain = Tensor::full(weight.shape(), 1, weight.dtype(), weight.data().device());
  gain.add(weight.data());
  return gain;
}

}  // namespace

Var rms_norm(const Var& x, const Var& weight, double eps, DType out, bool zero_centered) {
  expect(is_rows(x.data()), "rms_norm: x: expected rows [.., C] of one stride, given {}", x.shape());
  const int64_t width = weight.shape().rank() == 1 ? weight.dim(0) : 0, heads = width == 0 ? 1 : x.dim(-1) / width;
  expect(weight.shape() == Shape{width} && width * heads == x.dim(-1) && weight.dtype() == wide(x.dtype()),
         "rms_norm: weight: expected {} [{}], given {} {}", wide(x.dtype()), x.dim(-1), weight.dtype(), weight.shape());
  expect(wide(out) == wide(x.dtype()), "rms_norm: out: expected a dtype as wide as that of x ({}), given {}", x.dtype(), out);
  const Tensor y = Tensor::empty(x.shape(), out, x.data().device());
  const Tensor rstd = Tensor::empty(x.shape().with(-1, heads), wide(x.dtype()), x.data().device());
  launch(y.device(), RmsNormForward{.y = y, .rstd = rstd, .x = x.data(), .weight = gain_of(weight, zero_centered), .eps = eps});
  return record("rms_norm", {x, weight}, y, [x = x.data(), weight, rstd, zero_centered](Backprop& b) {
    const Tensor sum = b.take(0), dx = sum || !b.wanted(0) ? sum : empty_like(x);
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    launch(dy.device(), RmsNormBackward{.dx = dx,
                                        .accumulate = bool(sum),
                                        .dweight = b.wanted(1) ? b.sum_into(weight) : Tensor(),
                                        .dy = dy,
                                        .x = x,
                                        .weight = gain_of(weight, zero_centered),
                                        .rstd = rstd});
    b.give(0, dx);
  });
}

}  // namespace ropewalk
