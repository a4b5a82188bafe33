#include "kernels/gated_rms_norm/gated_rms_norm.h"

namespace ropewalk {
namespace {

void expect_gated(const char* op, const Tensor& y, const Tensor& z) {
  expect(is_rows(y), "{}: y: expected rows [.., I] of one stride, given {}", op, y.shape());
  expect(z.shape() == y.shape() && z.dtype() == y.dtype(), "{}: z: expected {} {} as y, given {} {}", op, y.dtype(), y.shape(), z.dtype(),
         z.shape());
  expect(is_rows(z), "{}: z: expected rows [.., I] of one stride, given {}", op, z.shape());
}

Tensor as_rows(const Tensor& x) { return is_rows(x) ? x : x.contiguous_copy(); }

}  // namespace

Var gated_square_sum(const Var& y, const Var& z, int64_t groups) {
  expect_gated("gated_square_sum", y.data(), z.data());
  expect(groups > 0 && y.dim(-1) % groups == 0, "gated_square_sum: groups: expected a divisor of {} (last dim of y), given {}", y.dim(-1),
         groups);
  const Tensor square_sum = Tensor::empty(y.shape().with(-1, groups), wide(y.dtype()), y.data().device());
  launch(square_sum.device(), GatedSquareSumForward{.square_sum = square_sum, .y = y.data(), .z = z.data()});
  return record("gated_square_sum", {y, z}, square_sum, [y = y.data(), z = z.data()](Backprop& b) {
    if (!b.wanted(0) && !b.wanted(1)) return;
    const Tensor dy = b.room(0, y), dz = b.room(1, z);
    launch(dy.device(), GatedSquareSumBackward{.dy = dy, .dz = dz, .d_square_sum = as_rows(b.dy(0)), .y = y, .z = z});
    b.give(0, dy);
    b.give(1, dz);
  });
}

Var square_sum(const Var& y, int64_t groups) {
  expect(is_rows(y.data()), "square_sum: y: expected rows [.., I] of one stride, given {}", y.shape());
  expect(groups > 0 && y.dim(-1) % groups == 0, "square_sum: groups: expected a divisor of {} (last dim of y), given {}", y.dim(-1),
         groups);
  const Tensor sum = Tensor::empty(y.shape().with(-1, groups), wide(y.dtype()), y.data().device());
  launch(sum.device(), SquareSumForward{.square_sum = sum, .y = y.data()});
  return record("square_sum", {y}, sum, [y = y.data()](Backprop& b) {
    const Tensor dy = empty_like(y);
    launch(dy.device(), SquareSumBackward{.dy = dy, .d_square_sum = as_rows(b.dy(0)), .y = y});
    b.give(0, dy);
  });
}

Var gated_rms_norm(const Var& y, const Var& z, const Var& weight, const Var& square_sum, int64_t group_width, double eps) {
  expect_gated("gated_rms_norm", y.data(), z.data());
  const DType statistics = wide(y.dtype());
  expect(weight.shape() == Shape{y.dim(-1)} && weight.dtype() == statistics, "gated_rms_norm: weight: expected {} [{}], given {} {}",
         statistics, y.dim(-1), weight.dtype(), weight.shape());
  const int64_t groups = is_rows(square_sum.data()) ? square_sum.dim(-1) : 0;
  expect(groups > 0 && y.dim(-1) % groups == 0 && square_sum.shape() == y.shape().with(-1, groups) && square_sum.dtype() == statistics,
         "gated_rms_norm: square_sum: expected {}, one a group of y {}, given {} {}", statistics, y.shape(), square_sum.dtype(),
         square_sum.shape());
  expect(group_width >= y.dim(-1) / groups,
         "gated_rms_norm: group_width: expected at least {} (the channels of a group that are here), given {}", y.dim(-1) / groups,
         group_width);
  const Tensor out = empty_like(y.data());
  launch(out.device(), GatedRmsNormForward{.out = out,
                                           .y = y.data(),
                                           .z = z.data(),
                                           .weight = weight.data(),
                                           .square_sum = square_sum.data(),
                                           .group_width = group_width,
                                           .eps = eps});
  return record("gated_rms_norm", {y, z, weight, square_sum}, out,
                [y = y.data(), z = z.data(), weight, square_sum = square_sum.data(), group_width, eps](Backprop& b) {
                  const Tensor dy = b.room(0, y), dz = b.room(1, z), d_square_sum = empty_like(square_sum);
                  launch(dy.device(), GatedRmsNormBackward{.dy = dy,
                                                           .dz = dz,
                                                           .dweight = b.wanted(2) ? b.sum_into(weight) : Tensor(),
                                                           .d_square_sum = d_square_sum,
                                                           .d_out = as_rows(b.dy(0)),
                                                           .y = y,
                                                           .z = z,
                                                           .weight = weight.data(),
                                                           .square_sum = square_sum,
                                                           .group_width = group_width,
                                                           .eps = eps});
                  b.give(0, dy);
                  b.give(1, dz);
                  b.give(3, d_square_sum);
                });
}

}  // namespace ropewalk
