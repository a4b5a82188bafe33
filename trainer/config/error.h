// Where a value of the configuration was given, and the one-line error that points there.
#pragma once

#include "kernels/error.h"

namespace ropewalk {

struct Where {
  std::string file;  // empty: the command line
  int line = 0;

  std::string text() const { return file.empty() ? "command line" : fmt::format("{}:{}", file, line); }
  // "line 17" where both are in one file.
  std::string seen_from(const Where& other) const { return file.empty() || file != other.file ? text() : fmt::format("line {}", line); }
  bool operator==(const Where&) const = default;
};

// With control characters as escapes: a message that quotes what was given stays on its line.
std::string on_one_line(const std::string& text);

// Wrong configuration or arguments: exit code 2.
struct ConfigError : Error {
  explicit ConfigError(const std::string& message) : Error(2, on_one_line(message), Reach::kEveryRank) {}
  ConfigError(const Where& where, const std::string& key, const std::string& message)
      : ConfigError(fmt::format("{}: {}{}{}", where.text(), key, key.empty() ? "" : ": ", message)) {}
};

}  // namespace ropewalk
