// Random models of few sub-layers on random meshes: what nobody thought of.
#pragma once

#include "tests/trainer/parity/parity_case.h"

namespace ropewalk::testing {

// A pure function of the seed: one to six sub-layers of any kind and options, sharing, packing, a mesh of at most so many ranks that their
// sizes fit, and the other options of a run.
ParityCase random_case(uint64_t seed, int most_ranks);

}  // namespace ropewalk::testing
