// Counts and tables for people: how large a model is, which parameter falls in which optimizer group, and what a checkpoint holds.
#pragma once

#include <string>

#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/options.h"

namespace ropewalk {

struct ParameterTotals {
  int64_t all = 0, active = 0;  // active: what one token uses, embeddings included
};
ParameterTotals count_parameters(const ModelOptions& model);  // allocates none of them

std::string describe_parameters(const Options& options);
std::string describe_checkpoint(const CheckpointReader& reader, const std::string& folder);

}  // namespace ropewalk
