// Forward and backward of a function, and the comparison of a narrow type with fp64, on the host and on the GPU that there is.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kernels/tensor/memory.h"
#include "tests/support/finite_difference.h"

namespace ropewalk::testing {

struct Trace {
  Tensors outputs, gradients;  // gradients of activations and parameters, in the order of the arguments

  Tensors all() const {
    Tensors both = outputs;
    both.insert(both.end(), gradients.begin(), gradients.end());
    return both;
  }
};

inline bool is_float(DType dtype) { return dtype == DType::kFloat64 || dtype == DType::kFloat32 || dtype == DType::kBFloat16; }

// Forward and backward from `seeds`, one an output.
inline Trace trace(const std::vector<Argument>& arguments, const std::function<Vars(const Vars&)>& function, const Tensors& seeds) {
  Tape tape;
  Vars vars;
  for (const Argument& argument : arguments) {
    switch (argument.kind) {
      case Argument::kActivation: vars.push_back(tape.input(argument.value)); break;
      case Argument::kParameter: vars.push_back(parameter(argument.name, argument.value)); break;
      case Argument::kConstant: vars.push_back(tape.constant(argument.value)); break;
    }
  }
  Trace result;
  const Vars outputs = function(vars);
  for (const Var& output : outputs) result.outputs.push_back(output.data());
  const Tensors input_grads = tape.backward(outputs, seeds);
  size_t next_input = 0;
  for (size_t a = 0; a < arguments.size(); ++a) {
    if (arguments[a].kind == Argument::kActivation) result.gradients.push_back(input_grads[next_input++]);
    if (arguments[a].kind == Argument::kParameter) result.gradients.push_back(vars[a].leaf()->grad);
  }
  return result;
}

// Random seeds in the dtypes of the function's outputs.
inline Tensors random_seeds(const std::vector<Argument>& arguments, const std::function<Vars(const Vars&)>& function) {
  Vars vars;
  for (const Argument& argument : arguments) vars.push_back(argument.value);
  Tensors seeds;
  for (const Var& output : function(vars)) seeds.push_back(random_tensor(output.shape(), 1000 + seeds.size(), 1, output.dtype()));
  return seeds;
}

// The trace from random seeds.
inline Trace trace(const std::vector<Argument>& arguments, const std::function<Vars(const Vars&)>& function) {
  return trace(arguments, function, random_seeds(arguments, function));
}

// x there; a view of parts of rows stays one, at multiples of eight elements where x is.
inline Tensor on(Device device, const Tensor& x) {
  if (device == x.device() || x.contiguous()) return x.to(device);
  const bool aligned = x.rank() > 1 && x.stride(-2) % 8 == 0;
  const int64_t more = aligned ? 8 : 3, begin = aligned ? 8 : 2;
  const Tensor view = Tensor::empty(x.shape().with(-1, x.dim(-1) + more), x.dtype(), device).narrow(-1, begin, x.dim(-1));
  view.copy_from(x);
  return view;
}
inline Tensors on(Device device, Tensors all) {
  for (Tensor& x : all) x = on(device, x);
  return all;
}
inline std::vector<Argument> on(Device device, std::vector<Argument> arguments) {
  for (Argument& argument : arguments) argument.value = on(device, argument.value);
  return arguments;
}

inline std::vector<Device> devices() {
  std::vector<Device> devices = {Cpu{}};
  if (available(Cuda{})) devices.push_back(Cuda{});
  return devices;
}

// `arguments` in the dtypes under test; the yardstick gets the same (rounded) values in fp64.
inline void expect_precision(const std::vector<Argument>& arguments, const std::function<Vars(const Vars&)>& function,
                             double output_tolerance, double gradient_tolerance) {
  std::vector<Argument> exact = arguments;
  for (Argument& argument : exact)
    if (is_float(argument.value.dtype())) argument.value = argument.value.to(DType::kFloat64);
  const Tensors seeds = random_seeds(arguments, function), exact_outputs = random_seeds(exact, function);
  Tensors exact_seeds;
  for (size_t i = 0; i < seeds.size(); ++i) exact_seeds.push_back(seeds[i].to(exact_outputs[i].dtype()));
  const Trace expected = trace(exact, function, exact_seeds);
  for (const Device device : devices()) {
    SCOPED_TRACE(device.is_cuda() ? "on the GPU" : "on the host");
    const Trace given = trace(on(device, arguments), function, on(device, seeds));
    for (size_t i = 0; i < given.outputs.size(); ++i)
      EXPECT_LT(relative_error(given.outputs[i], expected.outputs[i]), output_tolerance) << "output " << i;
    for (size_t i = 0; i < given.gradients.size(); ++i)
      EXPECT_LT(relative_error(given.gradients[i], expected.gradients[i]), gradient_tolerance) << "gradient " << i;
  }
}

// Both narrow types, to what is asked of every op.
inline void expect_narrow_precision(const std::function<std::vector<Argument>(DType)>& arguments,
                                    const std::function<Vars(const Vars&)>& function) {
  expect_precision(arguments(DType::kFloat32), function, 1e-5, 1e-5);
  expect_precision(arguments(DType::kBFloat16), function, 1e-2, 2e-2);
}

}  // namespace ropewalk::testing
