// y = sum_i weights[i] * x_i: residual connections and the combiners of parallel branches. All x_i have one shape; y has the dtype of x_0
// (a residual stream stays fp32 when the branches are bf16); sums are kept in the wide type.
#pragma once

#include "kernels/autograd/tape.h"

namespace ropewalk {

Var weighted_sum(const Vars& x, const std::vector<double>& weights);
inline Var add(const Var& a, const Var& b) { return weighted_sum({a, b}, {1, 1}); }
inline Var scaled(const Var& x, double factor) { return factor == 1 ? x : weighted_sum({x}, {factor}); }

struct WeightedSum {
  const Tensor& y;
  const Tensors& x;  // of the shape of y
  const std::vector<double>& weights;
};
void launch(Cpu, const WeightedSum& sum);
void launch(Cuda, const WeightedSum& sum);

}  // namespace ropewalk
