#include "kernels/flat/span.cuh"
#include "kernels/sgd/sgd.h"

namespace ropewalk {
namespace {

using namespace cuda;

// Multiplications and additions are joined by hand: an element gets the same bits wherever its span begins.
struct Rule {
  float lr, weight_decay, grad_scale;
  const float* grad;

  template <int n>
  __device__ Pack<float, n> operator()(int64_t i, const Pack<float, n>& master) const {
    const auto gradient = load_pack<n>(grad + i);
    Pack<float, n> after;
    for (int k = 0; k < n; ++k) after.v[k] = fmaf(-lr, fmaf(weight_decay, master.v[k], grad_scale * gradient.v[k]), master.v[k]);
    return after;
  }
};

}  // namespace

void launch(Cuda, const SgdStep& step) {
  dispatch_narrow(step.working ? step.working.dtype() : step.master.dtype(), [&]<class T>(std::type_identity<T>) {
    const int64_t n = step.master.numel();
    float* const master = span_of<float>(step.master, n, "sgd: master");
    const Rule rule{.lr = static_cast<float>(step.lr),
                    .weight_decay = static_cast<float>(step.weight_decay),
                    .grad_scale = static_cast<float>(step.grad_scale),
                    .grad = span_of<float>(step.grad, n, "sgd: grad")};
    T* const working = step.working ? span_of<T>(step.working, n, "sgd: working") : nullptr;
    update_span(n, master, working, step.squares, rule, packs(rule.grad, 0, kPackWidth<float>), "sgd: squares");
  });
}

}  // namespace ropewalk
