// Hot inner loops are compiled for AVX-512, AVX2 and the baseline, and isa() picks at run time.
//
//   template <class T> void scale_row(int64_t n, const T* x, T factor, T* y) { ...a plain loop... }
//   vectorized<scale_row<T>>(n, x, factor, y);
//
// The leaf and all that it calls are inlined into a copy for each instruction set: it must do its loop itself and call nothing that
// cannot be inlined. An OpenMP region inside would not be copied; threads belong outside (parallel_for.h). The choice costs a few
// nanoseconds: a leaf should have a row or a block to work on.
#pragma once

#include "kernels/tensor/isa.h"

namespace ropewalk {

template <auto kLeaf, class Signature = decltype(kLeaf)>
struct Vectorized;

template <auto kLeaf, class Result, class... Args>
struct Vectorized<kLeaf, Result (*)(Args...)> {
  Result operator()(Args... args) const {
#if defined(__x86_64__)
    if (isa() >= Isa::kAvx512) return for_avx512(args...);
    if (isa() == Isa::kAvx2) return for_avx2(args...);
#endif
    return kLeaf(args...);
  }

 private:
#if defined(__x86_64__)
  [[gnu::target("arch=x86-64-v4"), gnu::flatten, gnu::noinline]] static Result for_avx512(Args... args) { return kLeaf(args...); }
  [[gnu::target("arch=x86-64-v3"), gnu::flatten, gnu::noinline]] static Result for_avx2(Args... args) { return kLeaf(args...); }
#endif
};

template <auto kLeaf>
inline constexpr Vectorized<kLeaf> vectorized{};

}  // namespace ropewalk
