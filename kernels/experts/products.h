// expert_linear as a product of each expert that has rows, one after the other: multiply(MatMul).
#pragma once

#include "kernels/experts/experts.h"
#include "kernels/matmul/matmul.h"

namespace ropewalk {

// weight[e] as the matrix [N, K].
inline Tensor matrix_of(const Tensor& weight, int64_t expert) {
  const Tensor one = weight.select(0, expert);
  return one.reshape({one.numel() / one.dim(-1), one.dim(-1)});
}

// Calls work(expert, rows' begin, rows' count) for each expert that has any.
template <class Work>
void for_each_expert(const ExpertPlan& plan, const Work& work) {
  for (int64_t e = 0; e < plan.experts(); ++e)
    if (plan.begin[e + 1] > plan.begin[e]) work(e, plan.begin[e], plan.begin[e + 1] - plan.begin[e]);
}

template <class Multiply>
void for_each_product(const ExpertLinearForward& args, const Multiply& multiply) {
  for_each_expert(args.plan, [&](int64_t e, int64_t begin, int64_t count) {
    const Tensor c = args.y.narrow(0, begin, count), a = args.rows.narrow(0, begin, count), matrix = matrix_of(args.weight, e);
    multiply(MatMul{.c = c, .a = a, .b = matrix, .transpose_b = true});
  });
}

template <class Multiply>
void for_each_product(const ExpertLinearBackwardInput& args, const Multiply& multiply) {
  for_each_expert(args.plan, [&](int64_t e, int64_t begin, int64_t count) {
    const Tensor c = args.drows.narrow(0, begin, count), a = args.dy.narrow(0, begin, count), matrix = matrix_of(args.weight, e);
    multiply(MatMul{.c = c, .a = a, .b = matrix});
  });
}

template <class Multiply>
void for_each_product(const ExpertLinearBackwardWeight& args, const Multiply& multiply) {
  for_each_expert(args.plan, [&](int64_t e, int64_t begin, int64_t count) {
    const Tensor c = matrix_of(args.dweight, e), a = args.dy.narrow(0, begin, count), rows = args.rows.narrow(0, begin, count);
    multiply(MatMul{.c = c, .a = a, .transpose_a = true, .b = rows, .accumulate = true});
  });
}

}  // namespace ropewalk
