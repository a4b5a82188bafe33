// master -= lr * (grad_scale * grad + weight_decay * master), and the working copy, on a flat span. Shapes and dtypes as for AdamW.
#pragma once

#include "kernels/flat/flat.h"

namespace ropewalk {

struct SgdStep {
  const Tensor& master;
  const Tensor& working;  // empty where ops read the master itself
  const Tensor& grad;
  double lr, weight_decay, grad_scale;
  UpdateSquares* squares = nullptr;  // out, where wanted
};
void launch(Cpu, const SgdStep& step);
inline Effort effort(const SgdStep& step) {
  return {.bytes = static_cast<double>(2 * step.master.bytes() + step.grad.bytes() + (step.working ? step.working.bytes() : 0))};
}

}  // namespace ropewalk
