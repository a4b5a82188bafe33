// Which tokens are scored, known on the GPU alone: launches are sized for all tokens, and blocks behind the last scored one end at once.
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk::cuda {

struct Scored {
  Tensor token;  // [N] int32: where they stand, ascending; as many as
  Tensor count;  // [1] int32
};
// target [..] int64 dense, N elements.
Scored scored_tokens(const Tensor& target);

}  // namespace ropewalk::cuda
