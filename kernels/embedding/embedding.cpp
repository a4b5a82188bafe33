#include "kernels/embedding/embedding.h"

namespace ropewalk {

Var embedding(const Var& ids, const Var& weight, int64_t first_row, DType out) {
  expect(ids.dtype() == DType::kInt64, "embedding: ids: expected int64, given {}", ids.dtype());
  expect(weight.shape().rank() == 2, "embedding: weight: expected [rows, D], given {}", weight.shape());
  const Tensor id = ids.data().packed().to(weight.data().device());
  const Tensor y = Tensor::empty(id.shape().then({weight.dim(1)}), out, id.device());
  launch(y.device(), EmbeddingForward{.y = y, .ids = id, .weight = weight.data(), .first_row = first_row});
  return record("embedding", {ids, weight}, y, [id, weight, first_row](Backprop& b) {
    if (!b.wanted(1)) return;
    const Tensor dy = is_rows(b.dy(0)) ? b.dy(0) : b.dy(0).contiguous_copy();
    launch(dy.device(), EmbeddingBackward{.dweight = b.sum_into(weight), .dy = dy, .ids = id, .first_row = first_row});
  });
}

}  // namespace ropewalk
