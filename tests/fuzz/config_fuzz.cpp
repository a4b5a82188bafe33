// Texts for parse_config: the configuration, then, each behind a zero byte, overrides. What is wrong is a ConfigError of one line, or a
// DataError for a tokenizer's model; what is right can be written out and read again.
#include "data/error.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/config/config.h"

namespace ropewalk {
namespace {

std::vector<std::string> split_at_zeros(const std::string& input) {
  std::vector<std::string> texts;
  size_t begin = 0;
  for (size_t end; (end = input.find('\0', begin)) != std::string::npos; begin = end + 1) texts.push_back(input.substr(begin, end - begin));
  texts.push_back(input.substr(begin));
  return texts;
}

void check_resolved(const Config& config) {
  const Config again = parse_config(config.resolved, "resolved.yaml", {"run.dir=" + config.options.run.dir});
  fuzz::require(again.resolved == config.resolved, "the resolved configuration reads back as another");
  fuzz::require(changes_that_need_branch(config, again).empty(), "the resolved configuration counts as a change");
}

void read_meshes(const Config& config) {
  for (const int ranks : {1, 6, 16}) try {
      resolve_mesh(config, ranks);
    } catch (const ConfigError&) {
    }
}

}  // namespace

void fuzz::run_one(const std::string& input) {
  std::vector<std::string> texts = split_at_zeros(input);
  const std::string yaml = std::move(texts.front());
  texts.erase(texts.begin());
  Config config;
  try {
    config = parse_config(yaml, "fuzz.yaml", texts);
  } catch (const ConfigError& error) {
    return require(std::string(error.what()).find('\n') == std::string::npos, "an error has several lines");
  } catch (const DataError&) {
    return;
  }
  check_resolved(config);
  read_meshes(config);
}

}  // namespace ropewalk
