#include <algorithm>

#include "kernels/flat/span.h"
#include "kernels/sgd/sgd.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk {
namespace {

template <class W>
void update(int64_t n, W lr, W weight_decay, W grad_scale, const W* __restrict grad, W* __restrict master) {
  for (int64_t i = 0; i < n; ++i) master[i] -= lr * (grad_scale * grad[i] + weight_decay * master[i]);
}

template <class W, class T>
void sgd(const SgdStep& step) {
  const int64_t n = step.master.numel();
  W* const master = span_of<W>(step.master, n, "sgd: master");
  const W* const grad = span_of<W>(step.grad, n, "sgd: grad");
  T* const working = step.working ? span_of<T>(step.working, n, "sgd: working") : nullptr;
  const W lr = W(step.lr), weight_decay = W(step.weight_decay), grad_scale = W(step.grad_scale);
  const auto block = [&](int64_t i, int64_t length) {
    vectorized<update<W>>(length, lr, weight_decay, grad_scale, grad + i, master + i);
    if (working) vectorized<round_span<W, T>>(length, master + i, working + i);
  };
  if (step.squares)
    update_blocks(n, master, span_of<double>(step.squares, 2, "sgd: squares"), block);
  else
    for_blocks(n, block);
}

}  // namespace

void launch(Cpu, const SgdStep& step) {
  dispatch_float(step.working ? step.working.dtype() : step.master.dtype(), [&]<class T>(std::type_identity<T>) {
    if (step.master.dtype() == DType::kFloat64)
      sgd<double, T>(step);
    else
      sgd<float, T>(step);
  });
}

}  // namespace ropewalk
