#include "kernels/activation/activation.h"

namespace ropewalk {
namespace {

void expect_rows(const char* op, const char* name, const Var& x) {
  expect(is_rows(x.data()), "{}: {}: expected rows of one stride, given a view {} that is not", op, name, x.shape());
}

Tensor as_rows(const Tensor& x) { return is_rows(x) ? x : x.contiguous_copy(); }

}  // namespace

Var activation(const Var& x, Activation f) {
  expect_rows("activation", "x", x);
  const Tensor y = empty_like(x.data());
  launch(y.device(), ActivationForward{.y = y, .x = x.data(), .f = f});
  return record("activation", {x}, y, [x = x.data(), f](Backprop& b) {
    const Tensor dx = b.room(0, x);
    launch(dx.device(), ActivationBackward{.dx = dx, .dy = as_rows(b.dy(0)), .x = x, .f = f});
    b.give(0, dx);
  });
}

Var gated_activation(const Var& gate, const Var& up, Activation f, double scale) {
  expect_rows("gated_activation", "gate", gate);
  expect_rows("gated_activation", "up", up);
  expect(up.shape() == gate.shape() && up.dtype() == gate.dtype(), "gated_activation: up: expected {} {} (gate's), given {} {}",
         gate.dtype(), gate.shape(), up.dtype(), up.shape());
  const Tensor y = empty_like(gate.data());
  launch(y.device(), GatedActivationForward{.y = y, .gate = gate.data(), .up = up.data(), .f = f, .scale = scale});
  return record("gated_activation", {gate, up}, y, [gate = gate.data(), up = up.data(), f, scale](Backprop& b) {
    const Tensor dgate = b.room(0, gate), dup = b.room(1, up);
    launch(dgate.device(),
           GatedActivationBackward{.dgate = dgate, .dup = dup, .dy = as_rows(b.dy(0)), .gate = gate, .up = up, .f = f, .scale = scale});
    b.give(0, dgate);
    b.give(1, dup);
  });
}

}  // namespace ropewalk
