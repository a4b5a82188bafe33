#include "tests/support/finite_difference.h"

#include <algorithm>
#include <cmath>

#include "kernels/tensor/philox.h"

namespace ropewalk::testing {
namespace {

double dot(const Tensor& a, const Tensor& b, bool absolute = false) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += absolute ? std::abs(x[i] * y[i]) : x[i] * y[i];
  return sum;
}

}  // namespace

Tensor random_tensor(const Shape& shape, uint64_t seed, double scale, DType dtype) {
  const Philox random(seed, "test");
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = scale * (2 * random.uniform(i) - 1);
  return Tensor::from(shape, values).to(dtype);
}

Var parameter(const std::string& name, const Tensor& data) {
  auto leaf = std::make_shared<Leaf>();
  leaf->name = name;
  leaf->data = data.contiguous_copy();
  leaf->grad = Tensor::zeros(data.shape(), wide(data.dtype()), data.device());
  return Var(leaf);
}

double relative_error(const Tensor& given, const Tensor& expected, double floor) {
  expect(given.shape() == expected.shape(), "relative_error: expected {}, given {}", expected.shape(), given.shape());
  const auto x = given.to_vector<double>(), y = expected.to_vector<double>();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    norm += y[i] * y[i];
  }
  if (difference == 0) return 0;
  return std::sqrt(difference) / std::max(std::sqrt(norm), floor);
}

void expect_gradients(const std::vector<Argument>& arguments, const std::function<Vars(const Vars&)>& function, double tolerance) {
  Tape tape;
  Vars vars;
  for (const Argument& argument : arguments) {
    switch (argument.kind) {
      case Argument::kActivation: vars.push_back(tape.input(argument.value)); break;
      case Argument::kParameter: vars.push_back(parameter(argument.name, argument.value)); break;
      case Argument::kConstant: vars.push_back(tape.constant(argument.value)); break;
    }
  }
  const Vars outputs = function(vars);
  Tensors weights;
  double absolute_terms = 0;
  for (const Var& output : outputs) {
    weights.push_back(random_tensor(output.shape(), 1000 + weights.size()));
    absolute_terms += dot(weights.back(), output.data(), true);
  }
  const Tensors input_grads = tape.backward(outputs, weights);

  size_t next_input = 0;
  for (size_t a = 0; a < arguments.size(); ++a) {
    if (arguments[a].kind == Argument::kConstant) continue;
    const bool is_parameter = arguments[a].kind == Argument::kParameter;
    Tensor analytic = is_parameter ? vars[a].leaf()->grad : input_grads[next_input++];
    if (!analytic) analytic = zeros_like(arguments[a].value);

    Vars perturbed;
    for (size_t i = 0; i < arguments.size(); ++i) perturbed.push_back(arguments[i].value);
    const Tensor moved = arguments[a].value.contiguous_copy();
    perturbed[a] = is_parameter ? parameter(arguments[a].name, moved) : Var(moved);
    double* element = is_parameter ? perturbed[a].leaf()->data.data<double>() : moved.data<double>();
    const auto loss = [&] {
      const Vars y = function(perturbed);
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += dot(weights[i], y[i].data());
      return sum;
    };
    const Tensor numeric = zeros_like(moved);
    for (int64_t i = 0; i < moved.numel(); ++i) {
      const double centre = element[i], step = 1e-5 * std::max(1.0, std::abs(centre));
      element[i] = centre + step;
      const double above = loss();
      element[i] = centre - step;
      const double below = loss();
      element[i] = centre;
      numeric.data<double>()[i] = (above - below) / (2 * step);
    }
    EXPECT_LT(relative_error(analytic, numeric, 1e-3 * absolute_terms), tolerance) << "gradient of " << arguments[a].name;
  }
}

}  // namespace ropewalk::testing
