#include "kernels/sinkhorn/sinkhorn.h"

namespace ropewalk {

void check(const Sinkhorn& args) {
  const Tensor &expert = args.expert_BT, &logits = args.logits_BTE;
  expect(logits.rank() == 3 && logits.dim(2) > 0 && logits.contiguous(), "sinkhorn: logits: expected dense [B, T, E], given {}",
         logits.shape());
  expect(expert.shape() == logits.shape().first(2) && expert.contiguous(), "sinkhorn: expert: expected dense {}, given {}",
         logits.shape().first(2), expert.shape());
}

}  // namespace ropewalk
