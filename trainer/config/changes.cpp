// What may change when a run goes on from a checkpoint, and what makes it another run.
#include <algorithm>

#include "trainer/config/config.h"
#include "trainer/config/words.h"
#include "trainer/config/yaml.h"

namespace ropewalk {
namespace {

constexpr const char* kFree[] = {"parallel.",        "train.micro_batch",  "train.recompute", "train.steps",
                                 "train.eval_every", "train.health_every", "checkpoint.",     "run."};

bool is_free(const std::string& key) {
  return std::any_of(std::begin(kFree), std::end(kFree),
                     [&](const std::string& free) { return free.back() == '.' ? key.compare(0, free.size(), free) == 0 : key == free; });
}

using Leaves = std::map<std::string, std::string>;

// Lists of mappings are walked through, other lists are one value.
void list_leaves(const Value& value, const std::string& path, Leaves& leaves) {
  const bool walk = !value.children.empty() && (value.type == Value::kMap || value.children.front().type == Value::kMap);
  if (walk) {
    for (const Value& child : value.children) list_leaves(child, dotted(path, child.key), leaves);
  } else {
    leaves[path] = describe(value);
  }
}

Leaves leaves_of(const Config& config) {
  Leaves leaves;
  list_leaves(parse_yaml(config.resolved, "resolved"), "", leaves);
  return leaves;
}

}  // namespace

std::vector<std::string> changes_that_need_branch(const Config& before, const Config& now) {
  Leaves was = leaves_of(before), is = leaves_of(now);
  for (const auto& [key, value] : Leaves(is)) was.try_emplace(key, "not given");
  for (const auto& [key, value] : Leaves(was)) is.try_emplace(key, "not given");
  std::vector<std::string> changes;
  for (const auto& [key, value] : was)
    if (!is_free(key) && is[key] != value)
      changes.push_back(fmt::format("{}: {} before, {} now", key, shortened(value), shortened(is[key])));
  return changes;
}

}  // namespace ropewalk
