// Tables for people: which parameter falls in which optimizer group, and what a checkpoint holds.
#pragma once

#include <string>

#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/options.h"

namespace ropewalk {

std::string describe_parameters(const Options& options);
std::string describe_checkpoint(const CheckpointReader& reader, const std::string& folder);

}  // namespace ropewalk
