// AdamW (Loshchilov & Hutter 2019) on a flat span; decoupled decay, bias-corrected moments. With g = grad_scale * grad, per element:
//   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
//   master -= lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay * master)
// and the working copy, where there is one, is master rounded to its dtype. All are 1-d and dense; master, m, v, grad wide.
#pragma once

#include "kernels/flat/flat.h"

namespace ropewalk {

struct AdamWStep {
  const Tensor& master;
  const Tensor& working;  // empty where ops read the master itself
  const Tensor& m;
  const Tensor& v;
  const Tensor& grad;
  double lr, beta1, beta2, eps, weight_decay, grad_scale;
  int64_t t;  // 1 for the first step
  // [2] in double, where master lies, added to: squares of the changes, and of the weights after them. Empty: not wanted.
  const Tensor& squares;
};
void launch(Cpu, const AdamWStep& step);
void launch(Cuda, const AdamWStep& step);
inline Effort effort(const AdamWStep& step) {
  const int64_t working = step.working ? step.working.bytes() : 0;
  return {.bytes = static_cast<double>(2 * (step.master.bytes() + step.m.bytes() + step.v.bytes()) + step.grad.bytes() + working)};
}

}  // namespace ropewalk
