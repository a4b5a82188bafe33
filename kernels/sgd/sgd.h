// master -= lr * (grad_scale * grad + weight_decay * master), and the working copy, on a flat span. Shapes and dtypes as for AdamW.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct SgdStep {
  const Tensor& master;
  const Tensor& working;  // empty where ops read the master itself
  const Tensor& grad;
  double lr, weight_decay, grad_scale;
};
void launch(Cpu, const SgdStep& step);

}  // namespace ropewalk
