// docs/config.md and configs/schema.json: what the readers of the configuration say of their keys, gathered over examples.
#pragma once

#include <string>

#include "trainer/config/description.h"

namespace ropewalk {

// Of the whole configuration; the sections are the children of the root. Throws ConfigError where a key has no words, where no example
// gives it, and where none takes one of its alternatives.
Description describe_all_keys();

std::string config_markdown(const Description& all);
std::string config_schema(const Description& all);  // JSON Schema

}  // namespace ropewalk
