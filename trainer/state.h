// A run's state as named boxes: what a checkpoint holds, whatever mesh wrote it. Tensors are called
//   weights/<parameter>, optimizer/<moment>/<parameter>.
#pragma once

#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/optimizer.h"
#include "trainer/rank_model.h"

namespace ropewalk {

// The boxes that this rank stands for.
std::vector<Box> boxes_to_save(const ParameterStore& store, const Optimizer& optimizer);
// Fills this rank's masters (and working copies) from a checkpoint of any mesh; the optimizer's moments too.
void load_weights(CheckpointReader& reader, const ParameterStore& store);
void load_optimizer(CheckpointReader& reader, const ParameterStore& store, Optimizer& optimizer);

}  // namespace ropewalk
