// A run's state as named boxes: what a checkpoint holds, whatever mesh wrote it. Tensors are called
//   weights/<parameter>, optimizer/<moment>/<parameter>, buffers/<buffer>.
#pragma once

#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/optimizer.h"
#include "trainer/rank_model.h"

namespace ropewalk {

// The boxes that this rank stands for.
std::vector<Box> boxes_to_save(const ParameterStore& store, const Optimizer& optimizer);
// Fills what this rank owns of the weights, and the buffers, from a checkpoint of any mesh; a buffer that it does not hold keeps its initial
// value. ParameterStore::gather then brings the rest, once all ranks have read what they own.
void load_weights(CheckpointReader& reader, const ParameterStore& store);
void load_optimizer(CheckpointReader& reader, const ParameterStore& store, Optimizer& optimizer);

// What `inspect --digest` prints: of all that the model computes with (weights and buffers), and of the optimizer's moments.
std::string weights_digest(CheckpointReader& reader);
std::string optimizer_digest(CheckpointReader& reader);

}  // namespace ropewalk
