// Checks a differentiable function's gradients against central differences in fp64.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/autograd/tape.h"

namespace ropewalk::testing {

// Elements drawn from U(-scale, scale), a pure function of (seed, index).
Tensor random_tensor(const Shape& shape, uint64_t seed, double scale = 1.0, DType dtype = DType::kFloat64);

// A trainable leaf over a copy of `data`, with a zeroed gradient in the wide type.
Var parameter(const std::string& name, const Tensor& data);

// One argument of the function under test.
struct Argument {
  std::string name;
  Tensor value;  // fp64
  enum Kind { kActivation, kParameter, kConstant } kind = kActivation;
};

// The loss is sum_i <w_i, y_i> over all outputs y_i of `function`, with fixed random weights w_i. For every activation and parameter the
// gradient by the tape must equal the central difference: |analytic - numeric| / max(|numeric|, absolute terms) < tolerance, norm-wise.
// The absolute terms (sum |w y| times 1e-3) stand in where the true gradient cancels to nothing.
void expect_gradients(const std::vector<Argument>& arguments, const std::function<Vars(const Vars&)>& function, double tolerance = 1e-6);

// |given - expected| / max(|expected|, floor), 2-norms over all elements; any floating dtypes, same shape.
double relative_error(const Tensor& given, const Tensor& expected, double floor = 1e-300);
#define EXPECT_TENSOR_NEAR(given, expected, tolerance) EXPECT_LT(::ropewalk::testing::relative_error(given, expected), tolerance)

}  // namespace ropewalk::testing
