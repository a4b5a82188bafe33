// The sequential part of a chunked state-space scan: over the chunks of each run, in order,
//   entering[c] = h;   h <- decay[c] * h + local[c]
// Not an op with a tape rule: parallel/enter_state is, and calls these with what other ranks hand over.
//
// decay [C, H], local [C, H, P, N], all in the wide type. Chunks of run r are [first_chunk[r], first_chunk[r + 1]).
#pragma once

#include "kernels/tensor/tensor.h"

namespace ropewalk {

struct AffineScanForward {
  const Tensor& entering;     // out [C, H, P, N]: the state before each chunk
  const Tensor& leaving;      // out [R, H, P, N]: the state after each run's last chunk
  const Tensor& total_decay;  // out [R, H]: product of the run's decays; empty: not wanted
  const Tensor& start;        // [R, H, P, N]: the state before each run; empty: zeros
  const Tensor& decay;
  const Tensor& local;
  const std::vector<int64_t>& first_chunk;  // R + 1
};
void check(const AffineScanForward& args);
void launch(Cpu, const AffineScanForward& args);
void launch(Cuda, const AffineScanForward& args);

// Given d(entering) [C, H, P, N] and d(leaving) [R, H, P, N] (either may be empty: zeros), in reverse order.
struct AffineScanBackward {
  const Tensor& d_decay;  // out [C, H]
  const Tensor& d_local;  // out [C, H, P, N]
  const Tensor& d_start;  // out [R, H, P, N]
  const Tensor& d_entering;
  const Tensor& d_leaving;
  const Tensor& decay;
  const Tensor& entering;
  const std::vector<int64_t>& first_chunk;
};
void check(const AffineScanBackward& args);
void launch(Cpu, const AffineScanBackward& args);
void launch(Cuda, const AffineScanBackward& args);

}  // namespace ropewalk
