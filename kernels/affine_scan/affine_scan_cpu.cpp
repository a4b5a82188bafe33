#include <algorithm>

#include "kernels/affine_scan/affine_scan.h"
#include "kernels/tensor/parallel_for.h"
#include "kernels/tensor/vectorized.h"

namespace ropewalk {
namespace {

// to = decay * from + addend
template <class W>
void fold(int64_t n, W decay, const W* from, const W* addend, W* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = decay * from[i] + addend[i];
}

template <class W>
W dot(int64_t n, const W* x, const W* y) {
  constexpr int64_t kLanes = 32;
  W lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t s = 0; s < kLanes; ++s) lanes[s] += x[i + s] * y[i + s];
  W sum = 0;
  for (; i < n; ++i) sum += x[i] * y[i];
  for (int64_t s = 0; s < kLanes; ++s) sum += lanes[s];
  return sum;
}

template <class W>
void run_forward(const AffineScanForward& args) {
  const int64_t heads = args.decay.dim(1), state = args.local.dim(2) * args.local.dim(3), runs = args.leaving.dim(0);
  const Tensor start = args.start ? args.start : zeros_like(args.leaving);
  const Tensor total_decay = args.total_decay ? args.total_decay : Tensor::empty({runs, heads}, dtype_of<W>());
  W *entering = args.entering.data<W>(), *leaving = args.leaving.data<W>(), *total = total_decay.data<W>();
  const W *before = start.data<W>(), *decay = args.decay.data<W>(), *local = args.local.data<W>();
  parallel_for(runs * heads, [&](int64_t task) {
    const int64_t run = task / heads, head = task % heads, end = args.first_chunk[run + 1];
    const auto state_before = [&](int64_t c) { return c < end ? entering + (c * heads + head) * state : leaving + task * state; };
    int64_t c = args.first_chunk[run];
    std::copy_n(before + task * state, state, state_before(c));
    total[task] = 1;
    for (; c < end; ++c) {
      const int64_t at = c * heads + head;
      vectorized<fold<W>>(state, decay[at], state_before(c), local + at * state, state_before(c + 1));
      total[task] *= decay[at];
    }
  });
}

// With g[c] the gradient of the state before chunk c: d_local[c] = g[c + 1], d_decay[c] = <g[c + 1], entering[c]>,
// g[c] = decay[c] g[c + 1] + d_entering[c].
template <class W>
void run_backward(const AffineScanBackward& args) {
  const int64_t heads = args.decay.dim(1), state = args.entering.dim(2) * args.entering.dim(3), runs = args.d_start.dim(0);
  const Tensor d_entering = args.d_entering ? args.d_entering : zeros_like(args.entering);
  const Tensor d_leaving = args.d_leaving ? args.d_leaving : zeros_like(args.d_start);
  W *d_decay = args.d_decay.data<W>(), *d_local = args.d_local.data<W>(), *d_start = args.d_start.data<W>();
  const W *d_before = d_entering.data<W>(), *d_after = d_leaving.data<W>(), *decay = args.decay.data<W>(),
          *entering = args.entering.data<W>();
  parallel_for(runs * heads, [&](int64_t task) {
    const int64_t run = task / heads, head = task % heads, first = args.first_chunk[run];
    const auto gradient_before = [&](int64_t c) { return c > first ? d_local + ((c - 1) * heads + head) * state : d_start + task * state; };
    int64_t c = args.first_chunk[run + 1];
    std::copy_n(d_after + task * state, state, gradient_before(c));
    while (c-- > first) {
      const int64_t at = c * heads + head;
      const W* gradient = gradient_before(c + 1);
      d_decay[at] = vectorized<dot<W>>(state, gradient, entering + at * state);
      vectorized<fold<W>>(state, decay[at], gradient, d_before + at * state, gradient_before(c));
    }
  });
}

}  // namespace

void launch(Cpu, const AffineScanForward& args) {
  check(args);
  args.decay.dtype() == DType::kFloat64 ? run_forward<double>(args) : run_forward<float>(args);
}

void launch(Cpu, const AffineScanBackward& args) {
  check(args);
  args.decay.dtype() == DType::kFloat64 ? run_backward<double>(args) : run_backward<float>(args);
}

}  // namespace ropewalk
