// Writes a checkpoint: each rank its shard, then one rank the manifest and the name.
#pragma once

#include "parallel/comm/group.h"
#include "trainer/checkpoint/manifest.h"

namespace ropewalk {

// Collective over `all`. Writes the boxes that the ranks own into <root>/step-00000100, complete or not at all, and lets <root>/latest name
// it; a checkpoint of the same step is replaced. Every element of every tensor is owned by exactly one rank. Boxes without elements are
// left out. An error on one rank is every rank's error. Returns the folder.
std::string write_checkpoint(const std::string& root, const CheckpointMeta& meta, const std::vector<Box>& mine, const Group& all);

}  // namespace ropewalk
