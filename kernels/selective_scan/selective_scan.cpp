#include "kernels/selective_scan/selective_scan.h"

#include <algorithm>

namespace ropewalk {
namespace {

void expect_channels(const char* name, const Var& x, const SelectiveScanInputs& in) {
  expect(x.shape() == in.x.shape() && x.dtype() == in.x.dtype(), "selective_scan: {}: expected {} {} (x's), given {} {}", name,
         in.x.dtype(), in.x.shape(), x.dtype(), x.shape());
  expect(is_rows(x.data()), "selective_scan: {}: expected rows of one stride, given a view {} that is not", name, x.shape());
}

void expect_states(const char* name, const Var& x, const Shape& expected, const SelectiveScanInputs& in) {
  expect(x.shape() == expected && x.dtype() == in.x.dtype(), "selective_scan: {}: expected {} {}, given {} {}", name, in.x.dtype(),
         expected, x.dtype(), x.shape());
  expect(x.dim(-1) <= 1 || x.data().stride(-1) == 1, "selective_scan: {}: expected a dense last dim", name);
}

void expect_wide(const char* name, const Var& x, const Shape& expected, const SelectiveScanInputs& in) {
  const DType dtype = wide(in.x.dtype());
  expect(x.shape() == expected && x.dtype() == dtype && x.data().contiguous(), "selective_scan: {}: expected dense {} {}, given {} {}",
         name, dtype, expected, x.dtype(), x.shape());
}

void expect_entering(const SelectiveScanInputs& in, int64_t states) {
  expect_wide("h0", in.h0, {in.h0.dim(0), in.x.dim(2), states}, in);
  std::vector<bool> taken(static_cast<size_t>(in.h0.dim(0)));
  for (const Run& run : in.runs) {
    if (run.opens()) continue;
    expect(run.enters < in.h0.dim(0) && !taken[run.enters],
           "selective_scan: runs: expected each to enter from a row of its own of {}, given {}", in.h0.dim(0), run.enters);
    taken[run.enters] = true;
  }
}

void check(const SelectiveScanInputs& in) {
  expect(in.x.shape().rank() == 3, "selective_scan: x: expected [B, S, C], given {}", in.x.shape());
  expect(in.b.shape().rank() == 4, "selective_scan: b: expected [B, S, H, N], given {}", in.b.shape());
  const int64_t channels = in.x.dim(2), heads = in.b.dim(2), states = in.b.dim(3);
  expect(heads > 0 && channels % heads == 0, "selective_scan: b: expected a number of heads that divides {} channels, given {}", channels,
         heads);
  expect_channels("x", in.x, in);
  expect_channels("dt", in.dt, in);
  if (in.z) expect_channels("z", in.z, in);
  expect_states("b", in.b, in.x.shape().first(2).then({heads, states}), in);
  expect_states("c", in.c, in.b.shape(), in);
  expect_wide("a_log", in.a_log, {channels, states}, in);
  expect_wide("dt_bias", in.dt_bias, {channels}, in);
  expect_wide("d_skip", in.d_skip, {channels}, in);
  expect_runs_cover("selective_scan", in.runs, in.x.dim(0), in.x.dim(1));
  if (in.h0) expect_entering(in, states);
}

Tensor gradient_of(Backprop& b, int input, const Var& parameter) { return b.wanted(input) ? b.sum_into(parameter) : Tensor(); }

double operand_bytes(const SelectiveScanOperands& in) {
  return static_cast<double>(in.x.bytes() + in.dt.bytes() + in.b.bytes() + in.c.bytes() + (in.z ? in.z.bytes() : 0));
}

// Of the runs alone, which need not be all tokens.
Effort effort_without_outputs(const SelectiveScanOperands& in) {
  double tokens = 0;
  for (const Run& run : in.runs) tokens += static_cast<double>(run.length);
  const double all = static_cast<double>(in.x.dim(0) * in.x.dim(1));
  return {.flops = 4 * tokens * static_cast<double>(in.a_log.numel()), .bytes = operand_bytes(in) * tokens / all};
}

}  // namespace

std::function<SelectiveScanOperands()> operands_of(const SelectiveScanInputs& in) {
  return [x = in.x.data(), dt = in.dt.data(), z = in.z.data(), b = in.b.data(), c = in.c.data(), a_log = in.a_log, dt_bias = in.dt_bias,
          d_skip = in.d_skip, h0 = in.h0.data(), runs = in.runs] {
    return SelectiveScanOperands{.x = x,
                                 .dt = dt,
                                 .z = z,
                                 .b = b,
                                 .c = c,
                                 .a_log = a_log.data(),
                                 .dt_bias = dt_bias.data(),
                                 .d_skip = d_skip.data(),
                                 .h0 = h0,
                                 .runs = runs};
  };
}

SelectiveScan selective_scan(const SelectiveScanInputs& in) {
  check(in);
  const auto operands = operands_of(in);
  const Vars inputs = {in.x, in.dt, in.z, in.b, in.c, in.a_log, in.dt_bias, in.d_skip, in.h0};
  const bool taped = std::any_of(inputs.begin(), inputs.end(), [](const Var& input) { return input.tape(); });
  const SelectiveScanOperands now = operands();
  const DType wide_type = wide(in.x.dtype());
  const Device device = in.x.data().device();
  const Tensor y = empty_like(in.x.data());
  const Tensor leaving = Tensor::empty({std::ssize(in.runs), in.x.dim(2), in.b.dim(3)}, wide_type, device);
  const Tensor borders = taped ? Tensor::empty(selective_scan_borders(now), wide_type, device) : Tensor();
  launch(device, SelectiveScanForward{.y = y, .leaving = leaving, .borders = borders, .in = now});

  const auto backward = [operands, borders, a_log = in.a_log, dt_bias = in.dt_bias, d_skip = in.d_skip](Backprop& b) {
    const SelectiveScanOperands then = operands();
    const SelectiveScanGradients gradients{.x = b.room(0, then.x),
                                           .dt = b.room(1, then.dt),
                                           .z = then.z ? b.room(2, then.z) : Tensor(),
                                           .b = empty_like(then.b),
                                           .c = empty_like(then.c),
                                           .a_log = gradient_of(b, 5, a_log),
                                           .dt_bias = gradient_of(b, 6, dt_bias),
                                           .d_skip = gradient_of(b, 7, d_skip),
                                           .h0 = b.wanted(8) ? zeros_like(then.h0) : Tensor()};
    const Tensor dy = b.dy(0) ? b.dy(0).packed() : zeros_like(then.x), d_leaving = b.dy(1) ? b.dy(1).packed() : Tensor();
    launch(dy.device(), SelectiveScanBackward{.gradients = gradients, .dy = dy, .d_leaving = d_leaving, .borders = borders, .in = then});
    int input = 0;
    for (const Tensor& gradient : {gradients.x, gradients.dt, gradients.z, gradients.b, gradients.c}) b.give(input++, gradient);
    b.give(8, gradients.h0);
  };
  const Vars outputs = record("selective_scan", inputs, {y, leaving}, backward);
  return {.y = outputs[0], .leaving = outputs[1]};
}

Effort effort(const SelectiveScanForward& args) {
  return {.flops = 6 * static_cast<double>(args.in.x.numel() * args.in.b.dim(-1)),
          .bytes = operand_bytes(args.in) + static_cast<double>(args.y.bytes())};
}

Effort effort(const SelectiveScanBackward& args) {
  return {.flops = 18 * static_cast<double>(args.in.x.numel() * args.in.b.dim(-1)),
          .bytes = 2 * operand_bytes(args.in) + static_cast<double>(args.dy.bytes())};
}

Effort effort(const SelectiveScanSummary& args) { return effort_without_outputs(args.in); }
Effort effort(const SelectiveScanAdjoint& args) { return effort_without_outputs(args.in); }

}  // namespace ropewalk
