#include <algorithm>

#include "kernels/sinkhorn/sinkhorn.h"
#include "kernels/tensor/math.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

// One sequence.
template <class W>
struct Sequence {
  int64_t tokens, experts, iterations;
  const W* logits;     // [T, E]
  W *cost, *d1, *sum;  // [T, E], [E], [E]
  int64_t* expert;     // [T]
};

template <class W>
inline W scaled_down(W mass, W sum) {
  return mass / (sum + W(1e-8));
}

template <class W>
inline void set_costs(const Sequence<W>& s) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    const W *l = s.logits + t * s.experts, top = *std::max_element(l, l + s.experts);
    for (int64_t e = 0; e < s.experts; ++e) s.cost[t * s.experts + e] = fast_exp(2 * (l[e] - top));
  }
}

// d0 follows from d1 token by token, and scales a whole row of d0 c d1: neither the sums nor the argmax need it stored.
template <class W>
inline void iterate(const Sequence<W>& s) {
  const W per_token = W(1) / static_cast<W>(s.tokens), per_expert = W(1) / static_cast<W>(s.experts);
  std::fill_n(s.sum, s.experts, W(0));
  for (int64_t t = 0; t < s.tokens; ++t) {
    const W* c = s.cost + t * s.experts;
    W reached = 0;
    for (int64_t e = 0; e < s.experts; ++e) reached += c[e] * s.d1[e];
    const W d0 = scaled_down(per_token, reached);
    for (int64_t e = 0; e < s.experts; ++e) s.sum[e] += c[e] * d0;
  }
  for (int64_t e = 0; e < s.experts; ++e) s.d1[e] = scaled_down(per_expert, s.sum[e]);
}

template <class W>
void assign(Sequence<W> s) {
  set_costs(s);
  std::fill_n(s.d1, s.experts, W(1));
  for (int64_t i = 0; i < s.iterations; ++i) iterate(s);
  for (int64_t t = 0; t < s.tokens; ++t) {
    const W* c = s.cost + t * s.experts;
    int64_t best = 0;
    for (int64_t e = 1; e < s.experts; ++e)
      if (c[e] * s.d1[e] > c[best] * s.d1[best]) best = e;
    s.expert[t] = best;
  }
}

template <class W>
void sinkhorn(const Sinkhorn& args) {
  const int64_t rows = args.logits_BTE.dim(0), tokens = args.logits_BTE.dim(1), experts = args.logits_BTE.dim(2);
  const Tensor cost = empty_like(args.logits_BTE), sums = Tensor::empty({rows, 2, experts}, args.logits_BTE.dtype());
  const W* const logits = args.logits_BTE.data<W>();
  W *const costs = cost.data<W>(), *const room = sums.data<W>();
  int64_t* const expert = args.expert_BT.data<int64_t>();
  parallel_for(rows, [&](int64_t b) {
    vectorized<assign<W>>(Sequence<W>{.tokens = tokens,
                                      .experts = experts,
                                      .iterations = args.iterations,
                                      .logits = logits + b * tokens * experts,
                                      .cost = costs + b * tokens * experts,
                                      .d1 = room + 2 * b * experts,
                                      .sum = room + (2 * b + 1) * experts,
                                      .expert = expert + b * tokens});
  });
}

}  // namespace

void launch(Cpu, const Sinkhorn& args) {
  check(args);
  if (args.logits_BTE.dtype() == DType::kFloat64)
    sinkhorn<double>(args);
  else
    sinkhorn<float>(args);
}

}  // namespace ropewalk
