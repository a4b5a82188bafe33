#include "kernels/adamw/adamw.h"
#include "kernels/adamw/factors.h"
#include "kernels/flat/span.cuh"

namespace ropewalk {
namespace {

using namespace cuda;

// Multiplications and additions are joined by hand: an element gets the same bits wherever its span begins.
struct Rule {
  AdamWFactors<float> f;
  float *m, *v;
  const float* grad;

  template <int n>
  __device__ Pack<float, n> operator()(int64_t i, const Pack<float, n>& master) const {
    const auto gradient = load_pack<n>(grad + i);
    auto mean = load_pack<n>(m + i), square = load_pack<n>(v + i);
    Pack<float, n> after;
    for (int k = 0; k < n; ++k) {
      const float g = f.grad_scale * gradient.v[k];
      mean.v[k] = fmaf(f.beta1, mean.v[k], f.rest1 * g);
      square.v[k] = fmaf(f.beta2, square.v[k], f.rest2 * g * g);
      const float direction = f.unbias_m * mean.v[k] / (sqrtf(f.unbias_v * square.v[k]) + f.eps);
      after.v[k] = fmaf(-f.lr, fmaf(f.weight_decay, master.v[k], direction), master.v[k]);
    }
    store_pack(m + i, mean);
    store_pack(v + i, square);
    return after;
  }
};

}  // namespace

void launch(Cuda, const AdamWStep& step) {
  dispatch_narrow(step.working ? step.working.dtype() : step.master.dtype(), [&]<class T>(std::type_identity<T>) {
    const int64_t n = step.master.numel();
    float* const master = span_of<float>(step.master, n, "adamw: master");
    const Rule rule{.f = factors_of<float>(step),
                    .m = span_of<float>(step.m, n, "adamw: m"),
                    .v = span_of<float>(step.v, n, "adamw: v"),
                    .grad = span_of<float>(step.grad, n, "adamw: grad")};
    T* const working = step.working ? span_of<T>(step.working, n, "adamw: working") : nullptr;
    constexpr int kPack = kPackWidth<float>;
    update_span(n, master, working, step.squares, rule, packs(rule.m, 0, kPack) && packs(rule.v, 0, kPack) && packs(rule.grad, 0, kPack),
                "adamw: squares");
  });
}

}  // namespace ropewalk
