#include "kernels/gated_sum/gated_sum.h"

namespace ropewalk {
namespace {

Tensor as_rows(const Tensor& x) { return is_rows(x) ? x : x.contiguous_copy(); }

}  // namespace

Var gated_sum(const Var& logits, const Vars& x) {
  expect(x.size() >= 2, "gated_sum: x: expected two or more branches, given {}", x.size());
  Tensors branches;
  for (const Var& branch : x) {
    expect(branch.shape() == x[0].shape() && branch.dtype() == x[0].dtype(), "gated_sum: x: expected {} {} (the first), given {} {}",
           x[0].dtype(), x[0].shape(), branch.dtype(), branch.shape());
    branches.push_back(as_rows(branch.data()));
  }
  const Shape expected = x[0].shape().with(-1, (std::ssize(x) - 1) * x[0].dim(-1));
  expect(logits.shape() == expected && logits.dtype() == x[0].dtype(), "gated_sum: logits: expected {} {}, given {} {}", x[0].dtype(),
         expected, logits.dtype(), logits.shape());
  const Tensor rows = as_rows(logits.data()), y = empty_like(branches[0]);
  launch(y.device(), GatedSumForward{.y = y, .logits = rows, .x = branches});

  Vars inputs = {logits};
  inputs.insert(inputs.end(), x.begin(), x.end());
  return record("gated_sum", inputs, y, [logits = rows, x = branches](Backprop& b) {
    const Tensor dlogits = empty_like(logits);
    Tensors dx;
    for (const Tensor& branch : x) dx.push_back(empty_like(branch));
    launch(dlogits.device(), GatedSumBackward{.dlogits = dlogits, .dx = dx, .dy = as_rows(b.dy(0)), .logits = logits, .x = x});
    b.give(0, dlogits);
    for (size_t k = 0; k < dx.size(); ++k) b.give(static_cast<int>(k) + 1, dx[k]);
  });
}

}  // namespace ropewalk
