// What all elements of an AdamW step are multiplied by.
#pragma once

#include <cmath>

#include "kernels/adamw/adamw.h"

namespace ropewalk {

template <class W>
struct AdamWFactors {
  W grad_scale, beta1, rest1, beta2, rest2;
  W unbias_m, unbias_v;  // 1 / (1 - beta^t)
  W eps, lr, weight_decay;
};

// In double, whatever W: 1 - beta2 and 1 - beta2^t lose digits in float.
template <class W>
AdamWFactors<W> factors_of(const AdamWStep& step) {
  const auto t = static_cast<double>(step.t);
  return {.grad_scale = W(step.grad_scale),
          .beta1 = W(step.beta1),
          .rest1 = W(1 - step.beta1),
          .beta2 = W(step.beta2),
          .rest2 = W(1 - step.beta2),
          .unbias_m = W(1 / (1 - std::pow(step.beta1, t))),
          .unbias_v = W(1 / (1 - std::pow(step.beta2, t))),
          .eps = W(step.eps),
          .lr = W(step.lr),
          .weight_decay = W(step.weight_decay)};
}

}  // namespace ropewalk
