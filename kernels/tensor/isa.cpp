#include "kernels/tensor/isa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <dnnl.hpp>
#include <string>

#include "kernels/error.h"

namespace ropewalk {
namespace {

constexpr Isa kAll[] = {Isa::kPlain, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};

// Linux hands out the 8 KiB of tile registers only to processes that ask (arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool tiles_granted() {
#if defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#if defined(__x86_64__)
// g++ 12 and clang 14 do not know the AMX flags by name.
bool cpu_has_bf16_tiles() {
  uint32_t a = 7, b = 0, c = 0, d = 0;
  asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (d >> 24 & 1) && (d >> 22 & 1) && __builtin_cpu_supports("avx512bf16");  // AMX-TILE, AMX-BF16, and rounding to bf16
}
#endif

Isa best_of_host() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const auto has_all = [](auto... flags) { return (flags && ...); };
  const bool avx2 = has_all(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"), __builtin_cpu_supports("bmi2"));
  const bool avx512 = has_all(avx2, __builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"),
                              __builtin_cpu_supports("avx512cd"), __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512vl"));
  if (avx512 && cpu_has_bf16_tiles() && tiles_granted()) return Isa::kAmx;
  if (avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kPlain;
}

Isa allowed() {
  const char* const given = std::getenv("ROPEWALK_ISA");
  if (!given) return Isa::kAmx;
  for (const Isa isa : kAll)
    if (std::string(given) == name_of(isa)) return isa;
  throw Error(2, fmt::format("ROPEWALK_ISA: expected plain, avx2, avx512 or amx, given {}", given), Error::Reach::kEveryRank);
}

void limit_onednn(Isa isa) {
  switch (isa) {
    case Isa::kPlain: dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41); break;
    case Isa::kAvx2: dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2); break;
    case Isa::kAvx512: dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core); break;
    case Isa::kAmx: break;
  }
}

Isa choose() {
  const Isa chosen = std::min(best_of_host(), allowed());
  limit_onednn(chosen);
  return chosen;
}

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kPlain: return "plain";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAmx: return "amx";
  }
  return "?";
}

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace ropewalk
