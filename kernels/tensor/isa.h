// The instruction set that this process computes with.
#pragma once

#include <cstdint>

namespace ropewalk {

// Each holds the ones before it. kAvx2 is x86-64-v3 (with FMA), kAvx512 x86-64-v4, kAmx adds bf16 tiles.
enum class Isa : uint8_t { kPlain, kAvx2, kAvx512, kAmx };

const char* name_of(Isa isa);  // "plain", "avx2", "avx512", "amx"

// The best that CPU and kernel offer, found by CPUID flags (never by CPU model), but at most what the environment's ROPEWALK_ISA names.
// The first call also asks the kernel for the AMX tiles and limits oneDNN alike; later calls only read.
Isa isa();

}  // namespace ropewalk
