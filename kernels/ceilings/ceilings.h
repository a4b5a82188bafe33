// What this machine can do at most, measured on all threads of this rank: what the shares of a benchmark and of mfu are shares of. Products
// run on registers alone, without memory: no kernel can be faster, whoever wrote it.
#pragma once

#include "kernels/tensor/dtype.h"

namespace ropewalk {

struct Ceilings {
  double fp64 = 0;  // FLOP/s of fused multiply-adds on vectors
  double fp32 = 0;  // the same, or of AMX tiles in planes of bf16 (amx.h), whichever is more
  double bf16 = 0;  // of AMX tiles; where there are none bf16 is computed as fp32
  double of(DType dtype) const;
};
Ceilings measure_ceilings();

// Bytes/s, read and written, of a copy far larger than any cache.
double measure_memory();

}  // namespace ropewalk
