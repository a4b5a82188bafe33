// Activation functions, one element at a time, as their papers write them.
#pragma once

#include <cmath>
#include <numbers>

#include "kernels/activation/activation.h"

namespace ropewalk::reference {

inline double activation(double x, Activation f) {
  switch (f) {
    case Activation::kSigmoid: return 1 / (1 + std::exp(-x));
    case Activation::kSilu: return x / (1 + std::exp(-x));
    case Activation::kGelu: return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu2: return x > 0 ? x * x : 0;
  }
  return 0;
}

}  // namespace ropewalk::reference
