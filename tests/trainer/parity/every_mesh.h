// One model that holds every kind of sub-layer and option, on every mesh of up to eight ranks.
#pragma once

#include <vector>

#include "tests/trainer/parity/parity_case.h"

namespace ropewalk::testing {

struct MeshCase {
  ParityCase parity;
  bool runs;  // by its sizes alone, else it must be refused
};

// Every pipeline x data x context x tensor of at most so many ranks with every divisor `expert` of data x context, those of few ranks
// first. The other options are chosen so that each pair of their values meets on meshes where both matter; throws where one does not.
std::vector<MeshCase> every_mesh(int ranks);

// Eight tensor ranks with fewer groups and key-value heads than ranks, so that ranks hold copies: one and two of each.
std::vector<ParityCase> copied_groups_and_heads();

}  // namespace ropewalk::testing
