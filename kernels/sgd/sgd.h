// master -= lr * (grad_scale * grad + weight_decay * master), and the working copy, on a flat span. Shapes and dtypes as for AdamW.
#pragma once

#include "kernels/flat/flat.h"

namespace ropewalk {

struct SgdStep {
  const Tensor& master;
  const Tensor& working;  // empty where ops read the master itself
  const Tensor& grad;
  double lr, weight_decay, grad_scale;
  // [2] in double, where master lies, added to: squares of the changes, and of the weights after them. Empty: not wanted.
  const Tensor& squares;
};
void launch(Cpu, const SgdStep& step);
void launch(Cuda, const SgdStep& step);
inline Effort effort(const SgdStep& step) {
  return {.bytes = static_cast<double>(2 * step.master.bytes() + step.grad.bytes() + (step.working ? step.working.bytes() : 0))};
}

}  // namespace ropewalk
