// The configuration of a run: strict YAML to plain options. Whatever is wrong throws ConfigError, on one line that says where, which key,
// what was expected and what was given. Nothing here writes anything.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "parallel/mesh.h"
#include "trainer/config/description.h"
#include "trainer/config/error.h"
#include "trainer/options.h"

namespace ropewalk {

struct Config {
  Options options;
  // The whole configuration as YAML, defaults filled in; what an optimizer group inherits stays unsaid. Loads to the same options.
  std::string resolved;
  std::map<std::string, Where> places;  // of each given key, dotted; "" is the file

  bool given(const std::string& key) const { return places.count(key) > 0; }
  Where where(const std::string& key) const;  // of the key, or of its nearest given parent
  template <class... Args>
  ConfigError error(const std::string& key, fmt::format_string<Args...> message, Args&&... args) const {
    return {where(key), key, fmt::format(message, std::forward<Args>(args)...)};
  }
};

// Reads a file and what it names as its `base:`, a file or a list of files, each overriding those before it. Overrides ("train.steps=100")
// replace whole values, in their order; a list's item is named by its index ("optimizer.groups.0.lr=1e-3").
Config load_config(const std::string& file, const std::vector<std::string>& overrides);
// The same from a text; `name` stands for its file in errors.
Config parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& overrides);

// Reads a text for what its readers say of the keys that they ask for.
void describe_config(const std::string& text, Description& description);

// The keys that have no default, but only training needs.
void require_trainable(const Config& config);
void require(const Config& config, const std::vector<std::string>& keys, const char* purpose);  // "to train"

// The mesh for so many ranks: `data` is what the other degrees leave. Refuses sizes that the degrees do not divide.
Degrees resolve_mesh(const Config& config, int ranks);

// The values that may not change when a run goes on, but did: "optimizer.lr: 0.003 before, 0.001 now".
std::vector<std::string> changes_that_need_branch(const Config& before, const Config& now);

}  // namespace ropewalk
