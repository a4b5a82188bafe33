#include "kernels/weighted_sum/weighted_sum.h"

namespace ropewalk {
namespace {

// weight * dy in the dtype that the input had; dy itself where that is the same.
Tensor scaled(const Tensor& dy, double weight, DType dtype) {
  if (weight == 1 && dtype == dy.dtype()) return dy;
  const Tensor dx = Tensor::empty(dy.shape(), dtype, dy.device());
  launch(dx.device(), WeightedSum{.y = dx, .x = {dy}, .weights = {weight}});
  return dx;
}

}  // namespace

Var weighted_sum(const Vars& x, const std::vector<double>& weights) {
  expect(!x.empty(), "weighted_sum: x: expected at least one tensor");
  expect(weights.size() == x.size(), "weighted_sum: weights: expected {} (one an x), given {}", x.size(), weights.size());
  Tensors terms;
  std::vector<DType> dtypes;
  for (const Var& term : x) {
    expect(term.shape() == x[0].shape(), "weighted_sum: x: expected {} (the first), given {}", x[0].shape(), term.shape());
    terms.push_back(term.data());
    dtypes.push_back(term.dtype());
  }
  const Tensor y = empty_like(terms[0]);
  launch(y.device(), WeightedSum{.y = y, .x = terms, .weights = weights});
  return record("weighted_sum", x, y, [weights, dtypes](Backprop& b) {
    for (int i = 0; i < static_cast<int>(weights.size()); ++i)
      if (b.wanted(i)) b.give(i, scaled(b.dy(0), weights[i], dtypes[i]));
  });
}

}  // namespace ropewalk
