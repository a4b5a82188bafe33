#include "kernels/row_gate/row_gate.h"

namespace ropewalk {

Var row_gate(const Var& x, const Var& gate) {
  expect(x.data().rank() > 0 && is_rows(x.data()), "row_gate: x: expected rows of one stride, given a view {} that is not", x.shape());
  expect(gate.shape() == x.shape().with(-1, 1) && gate.dtype() == x.dtype(), "row_gate: gate: expected {} {}, given {} {}", x.dtype(),
         x.shape().with(-1, 1), gate.dtype(), gate.shape());
  const Tensor y = empty_like(x.data()), g = gate.data().packed();
  launch(y.device(), RowGateForward{.y = y, .x = x.data(), .gate = g});
  return record("row_gate", {x, gate}, y, [x = x.data(), g](Backprop& b) {
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    const Tensor dx = empty_like(x), dgate = empty_like(g);
    launch(dy.device(), RowGateBackward{.dx = dx, .dgate = dgate, .dy = dy, .x = x, .gate = g});
    b.give(0, dx);
    b.give(1, dgate);
  });
}

}  // namespace ropewalk
