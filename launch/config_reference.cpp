// Prints docs/config.md, or configs/schema.json:
//   build/release/config_reference > docs/config.md; build/release/config_reference --schema > configs/schema.json
#include <fmt/format.h>

#include <cstring>

#include "trainer/config/error.h"
#include "trainer/config/reference.h"

int main(int argc, char** argv) {
  using namespace ropewalk;
  try {
    const Description all = describe_all_keys();
    const bool schema = argc == 2 && std::strcmp(argv[1], "--schema") == 0;
    fmt::print("{}", schema ? config_schema(all) : config_markdown(all));
  } catch (const ConfigError& e) {
    fmt::print(stderr, "{}\n", e.what());
    return e.exit_code();
  }
  return 0;
}
