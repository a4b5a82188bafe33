#include "kernels/linear/linear.h"

#include "kernels/matmul/matmul.h"

namespace ropewalk {

Var linear(const Var& x, const Var& weight) {
  expect(is_rows(x.data()), "linear: x: expected rows of one stride, given a view {} that is not", x.shape());
  expect(weight.shape().rank() == 2 && weight.dim(1) == x.dim(-1), "linear: weight: expected [*, {}] (last dim of x {}), given {}",
         x.dim(-1), x.shape(), weight.shape());
  expect(weight.dtype() == x.dtype(), "linear: weight: expected {} (x's), given {}", x.dtype(), weight.dtype());
  const Tensor y = Tensor::empty(x.shape().with(-1, weight.dim(0)), x.dtype(), x.data().device());
  launch(y.device(), MatMul{.c = y, .a = x.data(), .b = weight.data(), .transpose_b = true});

  return record("linear", {x, weight}, y, [x = x.data(), weight](Backprop& b) {
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    if (b.wanted(0)) {
      const Tensor dx = empty_like(x);
      launch(dx.device(), MatMul{.c = dx, .a = dy, .b = weight.data()});
      b.give(0, dx);
    }
    if (b.wanted(1))
      b.later([x, weight, dy](Backprop& later) {
        launch(x.device(), MatMul{.c = later.sum_into(weight), .a = dy, .transpose_a = true, .b = x, .accumulate = true});
      });
  });
}

}  // namespace ropewalk
