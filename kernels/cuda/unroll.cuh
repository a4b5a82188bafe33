// Loops whose index the compiler knows: registers cannot be indexed at run time, so an array stays in them only where every loop over it is
// written out.
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace ropewalk::cuda {

// Calls body(0), .., body(n - 1).
template <int n, class Body>
__device__ __forceinline__ void unrolled(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (body(i), ...); }
  (std::make_integer_sequence<int, n>{});
}

}  // namespace ropewalk::cuda
