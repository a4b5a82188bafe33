// Tests that run wherever a type is computed with.
#pragma once

#include "tests/support/precision.h"

namespace ropewalk::testing {

// The devices that compute in a type and its wide type: fp64 is for proofs on the host.
inline std::vector<Device> devices(DType dtype) { return dtype == DType::kFloat64 ? std::vector<Device>{Cpu{}} : devices(); }

}  // namespace ropewalk::testing
