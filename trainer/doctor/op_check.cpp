#include "trainer/doctor/op_check.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/tensor/memory.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/philox.h"

namespace ropewalk {
namespace {

constexpr int kTimed = 7;
// Of narrow results against fp32: what the tests of each op ask for.
constexpr double kBf16Output = 1e-2, kBf16Gradient = 2e-2, kFp32 = 2e-5;

bool is_float(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kBFloat16; }

Var parameter(const Tensor& data) {
  auto leaf = std::make_shared<Leaf>();
  leaf->data = data;
  leaf->grad = Tensor::zeros(data.shape(), wide(data.dtype()), data.device());
  return Var(leaf);
}

struct Run {
  Tensors outputs, gradients;
  double forward_seconds = 0, backward_seconds = 0;
  DType narrowest = DType::kFloat32;
};

double seconds_since(int64_t begin) { return static_cast<double>(now_ns() - begin) * 1e-9; }

// In `yardstick`, where one is given, in the place of the operands' own floating types. `forward` records what forward launches.
Run run(const OpCheck& check, const std::vector<Operand>& operands, Device device, std::optional<DType> yardstick = {},
        Timeline* forward = nullptr) {
  Tape tape;
  Vars vars;
  Run result;
  for (const Operand& operand : operands) {
    const bool widen = yardstick && is_float(operand.value.dtype());
    const Tensor value = (widen ? operand.value.to(*yardstick) : operand.value).to(device);
    if (operand.value.dtype() == DType::kBFloat16) result.narrowest = DType::kBFloat16;
    switch (operand.kind) {
      case Operand::kActivation: vars.push_back(tape.input(value)); break;
      case Operand::kParameter: vars.push_back(parameter(value)); break;
      case Operand::kConstant: vars.push_back(tape.constant(value)); break;
    }
  }
  synchronize(device);
  const int64_t begin = now_ns();
  Vars outputs;
  {
    std::optional<Recording> recording;
    if (forward) recording.emplace(*forward);
    outputs = check.op(vars);
  }
  synchronize(device);
  result.forward_seconds = seconds_since(begin);
  Tensors seeds;
  for (const Var& output : outputs) {
    result.outputs.push_back(output.data());
    seeds.push_back(uniform(output.shape(), 1000 + seeds.size(), output.dtype()).to(device));
  }
  synchronize(device);
  const int64_t middle = now_ns();
  result.gradients = tape.backward(outputs, seeds);
  synchronize(device);
  result.backward_seconds = seconds_since(middle);
  for (const Var& var : vars)
    if (var.leaf()) result.gradients.push_back(var.leaf()->grad);
  return result;
}

double relative_error(const Tensor& given, const Tensor& expected) {
  if (!given || !expected) return given || expected ? 1 : 0;  // an operand without a gradient
  const auto x = given.to_vector<double>(), y = expected.to_vector<double>();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    norm += y[i] * y[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);  // NaN stays NaN, and no bound holds for it
}

// NaN wherever one of them is.
double largest_error(const Tensors& given, const Tensors& expected) {
  double largest = 0;
  for (size_t i = 0; i < given.size(); ++i) {
    const double error = relative_error(given[i], expected[i]);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

Tensor uniform(const Shape& shape, uint64_t seed, DType dtype, double low, double high) {
  const Philox random(seed, "doctor");
  const Tensor values = Tensor::empty(shape, DType::kFloat32);
  float* const to = values.data<float>();
  parallel_ranges(shape.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<float>(low + (high - low) * random.uniform(static_cast<uint64_t>(i)));
  });
  return values.to(dtype);
}

OpVerdict verdict_of(const OpCheck& check, Device device) {
  const std::vector<Operand> operands = check.operands();
  const Run expected = run(check, operands, Cpu{}, device.is_cuda() ? DType::kFloat32 : DType::kFloat64);
  Timeline timeline;
  const Run given = run(check, operands, device, {}, &timeline);
  OpVerdict verdict;
  verdict.output_error = largest_error(given.outputs, expected.outputs);
  verdict.gradient_error = largest_error(given.gradients, expected.gradients);
  const bool narrow = given.narrowest == DType::kBFloat16;
  verdict.passed = verdict.output_error <= (narrow ? kBf16Output : kFp32) && verdict.gradient_error <= (narrow ? kBf16Gradient : kFp32);
  for (const TimeSpan& span : timeline.spans())
    if (span.kind == TimeSpan::kKernel) verdict.flops += span.effort.flops;
  for (const Operand& operand : operands) verdict.bytes += static_cast<double>(operand.value.bytes());
  for (const Tensor& output : given.outputs) verdict.bytes += static_cast<double>(output.bytes());
  std::vector<double> forward, backward;
  for (int i = 0; i < (device.is_cuda() ? kTimed : 1); ++i) {
    const Run timed = run(check, operands, device);
    forward.push_back(timed.forward_seconds);
    backward.push_back(timed.backward_seconds);
  }
  verdict.forward_seconds = median(forward);
  verdict.backward_seconds = median(backward);
  return verdict;
}

}  // namespace ropewalk
