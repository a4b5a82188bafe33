// Hot inner loops are compiled for AVX-512, AVX2 and the baseline, and isa() picks at run time.
//
//   template <class T> void scale_row(int64_t n, const T* x, T factor, T* y) { ...a plain loop... }
//   vectorized<scale_row<T>>(n, x, factor, y);
//
// The leaf and all that it calls are inlined into a copy for each instruction set: it must do its loop itself and call nothing that
// cannot be inlined. An OpenMP region inside would not be copied; threads belong outside (parallel_for.h).
#pragma once

#include "kernels/tensor/isa.h"

namespace ropewalk {
namespace vectorized_detail {

#if defined(__x86_64__)
template <auto kLeaf, class... Args>
[[gnu::target("arch=x86-64-v4"), gnu::flatten, gnu::noinline]] auto for_avx512(Args... args) {
  return kLeaf(args...);
}
template <auto kLeaf, class... Args>
[[gnu::target("arch=x86-64-v3"), gnu::flatten, gnu::noinline]] auto for_avx2(Args... args) {
  return kLeaf(args...);
}
#endif

}  // namespace vectorized_detail

template <auto kLeaf, class... Args>
auto vectorized(Args... args) {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return vectorized_detail::for_avx512<kLeaf>(args...);
  if (isa() == Isa::kAvx2) return vectorized_detail::for_avx2<kLeaf>(args...);
#endif
  return kLeaf(args...);
}

// The older form, by the loader's resolvers, which no environment variable can limit. Sanitizers cannot start under it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__) || !defined(__x86_64__)
#define ROPEWALK_VECTORIZED
#else
#define ROPEWALK_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

}  // namespace ropewalk
