// A balanced assignment of a sequence's T tokens to E experts (BlackMamba, arXiv 2402.01771, after S-BASE, arXiv 2202.01169): with
// c_te = e^(2 (l_te - max_e l_te)), d1 = 1 and a fixed number of iterations
//   d0_t = (1/T) / (sum_e c_te d1_e + eps),   d1_e = (1/E) / (sum_t c_te d0_t + eps),   eps = 1e-8,
// token t goes to the expert with the greatest d0_t c_te d1_e; the lowest index among equals. (Without eps the row maxima change nothing;
// they keep e^2l finite.) It looks at the whole sequence, also at later tokens: for training only.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct Sinkhorn {
  const Tensor& expert_BT;   // int64
  const Tensor& logits_BTE;  // fp32 or fp64, dense; each row b by itself
  int64_t iterations;
};
void launch(Cpu, const Sinkhorn& args);
void launch(Cuda, const Sinkhorn& args);

// Throws ShapeError.
void check(const Sinkhorn& args);

}  // namespace ropewalk
