#include "kernels/swiglu/swiglu.h"

namespace ropewalk {

Var swiglu(const Var& gate, const Var& up) {
  expect(is_rows(gate.data()), "swiglu: gate: expected rows of one stride, given a view {} that is not", gate.shape());
  expect(is_rows(up.data()), "swiglu: up: expected rows of one stride, given a view {} that is not", up.shape());
  expect(up.shape() == gate.shape() && up.dtype() == gate.dtype(), "swiglu: up: expected {} {} (gate's), given {} {}", gate.dtype(),
         gate.shape(), up.dtype(), up.shape());
  const Tensor y = empty_like(gate.data());
  launch(y.device(), SwiGluForward{.y = y, .gate = gate.data(), .up = up.data()});

  return record("swiglu", {gate, up}, y, [gate = gate.data(), up = up.data()](Backprop& b) {
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    const Tensor dgate = empty_like(gate), dup = empty_like(up);
    launch(dy.device(), SwiGluBackward{.dgate = dgate, .dup = dup, .dy = dy, .gate = gate, .up = up});
    b.give(0, dgate);
    b.give(1, dup);
  });
}

}  // namespace ropewalk
