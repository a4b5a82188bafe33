// Hot inner loops are compiled for AVX-512, AVX2 and the baseline; the loader picks by CPUID flags (never by CPU model).
// Put ROPEWALK_VECTORIZED before a leaf function that does the loop itself and calls nothing that is not inlined; an OpenMP region
// inside would not be cloned. Sanitizers cannot start under the loader's resolvers, and clang does not clone templates: they get the
// baseline.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__) || !defined(__x86_64__)
#define ROPEWALK_VECTORIZED
#else
#define ROPEWALK_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
