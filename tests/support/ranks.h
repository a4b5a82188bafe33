// For tests that run as several ranks under mpirun (add_ranks_test): every rank runs every test.
#pragma once

#include "parallel/comm/group.h"

namespace ropewalk::testing {

// All ranks of the job.
const Group& world();
// The same with a timeout of its own, apart from world(): what fails in it does not disturb other tests. Collective.
Group world_with_timeout(double seconds);

}  // namespace ropewalk::testing
