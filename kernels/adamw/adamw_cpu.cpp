#include <algorithm>
#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/flat/span.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk {
namespace {

template <class W>
struct Factors {
  W grad_scale, beta1, rest1, beta2, rest2;
  W unbias_m, unbias_v;  // 1 / (1 - beta^t)
  W eps, lr, weight_decay;
};

// In double, whatever W: 1 - beta2 and 1 - beta2^t lose digits in float.
template <class W>
Factors<W> factors_of(const AdamWStep& step) {
  const auto t = static_cast<double>(step.t);
  return {.grad_scale = W(step.grad_scale),
          .beta1 = W(step.beta1),
          .rest1 = W(1 - step.beta1),
          .beta2 = W(step.beta2),
          .rest2 = W(1 - step.beta2),
          .unbias_m = W(1 / (1 - std::pow(step.beta1, t))),
          .unbias_v = W(1 / (1 - std::pow(step.beta2, t))),
          .eps = W(step.eps),
          .lr = W(step.lr),
          .weight_decay = W(step.weight_decay)};
}

template <class W>
void update(int64_t n, Factors<W> f, const W* __restrict grad, W* __restrict m, W* __restrict v, W* __restrict master) {
  for (int64_t i = 0; i < n; ++i) {
    const W g = f.grad_scale * grad[i];
    m[i] = f.beta1 * m[i] + f.rest1 * g;
    v[i] = f.beta2 * v[i] + f.rest2 * g * g;
    const W direction = f.unbias_m * m[i] / (std::sqrt(f.unbias_v * v[i]) + f.eps);
    master[i] -= f.lr * (direction + f.weight_decay * master[i]);
  }
}

template <class W, class T>
void adamw(const AdamWStep& step) {
  const int64_t n = step.master.numel();
  W* const master = span_of<W>(step.master, n, "adamw: master");
  W* const m = span_of<W>(step.m, n, "adamw: m");
  W* const v = span_of<W>(step.v, n, "adamw: v");
  const W* const grad = span_of<W>(step.grad, n, "adamw: grad");
  T* const working = step.working ? span_of<T>(step.working, n, "adamw: working") : nullptr;
  const Factors<W> factors = factors_of<W>(step);
  const auto block = [&](int64_t i, int64_t length) {
    vectorized<update<W>>(length, factors, grad + i, m + i, v + i, master + i);
    if (working) vectorized<round_span<W, T>>(length, master + i, working + i);
  };
  if (step.squares)
    *step.squares = update_blocks(n, master, block);
  else
    for_blocks(n, block);
}

}  // namespace

void launch(Cpu, const AdamWStep& step) {
  dispatch_float(step.working ? step.working.dtype() : step.master.dtype(), [&]<class T>(std::type_identity<T>) {
    if (step.master.dtype() == DType::kFloat64)
      adamw<double, T>(step);
    else
      adamw<float, T>(step);
  });
}

}  // namespace ropewalk
