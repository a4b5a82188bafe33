#include "kernels/ceilings/ceilings.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "kernels/tensor/tensor.h"
#include "kernels/tensor/vectorized.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ropewalk {
namespace {

constexpr int kRepetitions = 5;  // the best counts: a shared machine only ever takes away

template <class T, int kBytes>
using Vector [[gnu::vector_size(kBytes)]] = T;

// kChains independent chains of multiply-adds on vectors of a register's width: as many as hide their latency and leave registers for the
// operands. Returns what nobody can predict, so that nothing is left out.
template <class T, int kBytes, int kChains>
T multiply_adds(int64_t rounds, T factor, T addend) {
  Vector<T, kBytes> sums[kChains] = {};
#pragma GCC unroll 16
  for (int chain = 0; chain < kChains; ++chain) sums[chain] += static_cast<T>(chain);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = sums[chain] * factor + addend;
  }
  Vector<T, kBytes> sum = {};
#pragma GCC unroll 16
  for (int chain = 0; chain < kChains; ++chain) sum += sums[chain];
  return sum[0];
}

// Best work/s of kRepetitions runs of body(thread) on all threads.
template <class Body>
double best_rate(double work_a_thread, const Body& body) {
  const int threads = omp_get_max_threads();
  double best = 0;
  for (int repetition = 0; repetition < kRepetitions; ++repetition) {
    const int64_t begin = now_ns();
#pragma omp parallel for schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) body(thread);
    best = std::max(best, work_a_thread * threads / (static_cast<double>(now_ns() - begin) * 1e-9));
  }
  return best;
}

template <class T, int kBytes>
double vector_rate() {
  constexpr int64_t kRounds = 1 << 21;  // some milliseconds: threads take their time to begin
  constexpr int kChains = 10;
  std::vector<T> sink(static_cast<size_t>(omp_get_max_threads()));
  return best_rate(2.0 * kRounds * kChains * (kBytes / sizeof(T)), [&](int thread) {
    sink[static_cast<size_t>(thread)] = vectorized<multiply_adds<T, kBytes, kChains>>(kRounds, T(0.999), T(1e-3));
  });
}

template <class T>
double vector_rate() {
  if (isa() >= Isa::kAvx512) return vector_rate<T, 64>();
  return isa() == Isa::kAvx2 ? vector_rate<T, 32>() : vector_rate<T, 16>();
}

#if defined(__x86_64__)
// Four independent products of 16 x 32 by 32 x 16 a round, as tiles allow eight: two operands each, four results.
[[gnu::target("amx-tile,amx-bf16")]] void tile_products(int64_t rounds) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t column_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 8; ++tile) {
    config.column_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  asm volatile("" ::"r"(&config) : "memory");  // GCC 12 takes the configuration's stores for dead
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
#endif

double tile_rate() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAmx) {
    constexpr int64_t kRounds = 1 << 17;
    return best_rate(4.0 * kRounds * 2 * 16 * 16 * 32, [](int) { tile_products(kRounds); });
  }
#endif
  return 0;
}

}  // namespace

double Ceilings::of(DType dtype) const {
  switch (dtype) {
    case DType::kFloat64: return fp64;
    case DType::kBFloat16: return bf16;
    default: return fp32;
  }
}

Ceilings measure_ceilings() {
  constexpr double kProductsOfPlanes = 6;  // amx.h
  const double vectors = vector_rate<float>(), tiles = tile_rate();
  return {.fp64 = vector_rate<double>(), .fp32 = std::max(vectors, tiles / kProductsOfPlanes), .bf16 = std::max(vectors, tiles)};
}

double measure_memory() {
  constexpr int64_t kBytes = 256 << 20;
  const Tensor from = Tensor::zeros({kBytes}, DType::kUInt8), to = Tensor::zeros({kBytes}, DType::kUInt8);
  const auto* const source = static_cast<const char*>(from.raw());
  auto* const target = static_cast<char*>(to.raw());
  const int64_t threads = omp_get_max_threads(), share = kBytes / threads;
  return best_rate(2.0 * static_cast<double>(share),
                   [&](int64_t thread) { std::memcpy(target + thread * share, source + thread * share, static_cast<size_t>(share)); });
}

}  // namespace ropewalk
