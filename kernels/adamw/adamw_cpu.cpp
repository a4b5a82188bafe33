#include <algorithm>
#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/adamw/factors.h"
#include "kernels/flat/span.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk {
namespace {

template <class W>
void update(int64_t n, AdamWFactors<W> f, const W* __restrict grad, W* __restrict m, W* __restrict v, W* __restrict master) {
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
  const AdamWFactors<W> factors = factors_of<W>(step);
  const auto block = [&](int64_t i, int64_t length) {
    vectorized<update<W>>(length, factors, grad + i, m + i, v + i, master + i);
    if (working) vectorized<round_span<W, T>>(length, master + i, working + i);
  };
  if (step.squares)
    update_blocks(n, master, span_of<double>(step.squares, 2, "adamw: squares"), block);
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
