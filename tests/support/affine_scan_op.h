// The scan over chunks as an op with a tape rule, as one rank alone would record it.
#pragma once

#include "kernels/affine_scan/affine_scan.h"
#include "kernels/autograd/tape.h"

namespace ropewalk::testing {

// Gives {entering, leaving}. An empty start counts as zeros.
inline Vars affine_scan(const Var& decay, const Var& local, const Var& start, const std::vector<int64_t>& first_chunk) {
  const Tensor entering = empty_like(local.data()), none;
  const Tensor leaving =
      Tensor::empty(local.shape().with(0, static_cast<int64_t>(first_chunk.size()) - 1), local.dtype(), local.data().device());
  launch(leaving.device(), AffineScanForward{.entering = entering,
                                             .leaving = leaving,
                                             .total_decay = none,
                                             .start = start.data(),
                                             .decay = decay.data(),
                                             .local = local.data(),
                                             .first_chunk = first_chunk});
  return record("affine_scan", {decay, local, start}, {entering, leaving}, [decay = decay.data(), entering, first_chunk](Backprop& b) {
    const Tensor d_decay = empty_like(decay), d_local = empty_like(entering);
    const Tensor d_start =
        Tensor::empty(entering.shape().with(0, static_cast<int64_t>(first_chunk.size()) - 1), entering.dtype(), entering.device());
    launch(d_decay.device(), AffineScanBackward{.d_decay = d_decay,
                                                .d_local = d_local,
                                                .d_start = d_start,
                                                .d_entering = b.dy(0),
                                                .d_leaving = b.dy(1),
                                                .decay = decay,
                                                .entering = entering,
                                                .first_chunk = first_chunk});
    b.give(0, d_decay);
    b.give(1, d_local);
    b.give(2, d_start);
  });
}

}  // namespace ropewalk::testing
