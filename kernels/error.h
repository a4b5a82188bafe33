// The errors that users meet. Each names the exit code that a verb ends with; `what()` says where, what was expected, what was given.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace ropewalk {

class Error : public std::runtime_error {
 public:
  // Whether all ranks of the job throw it alike, because they look at the same thing or have agreed; else the others go on and must be
  // ended.
  enum class Reach { kThisRank, kEveryRank };

  Error(int exit_code, const std::string& message, Reach reach = Reach::kThisRank)
      : std::runtime_error(message), exit_code_(exit_code), reach_(reach) {}
  int exit_code() const { return exit_code_; }
  Reach reach() const { return reach_; }

 private:
  int exit_code_;
  Reach reach_;
};

// Shapes or dtypes that do not fit each other.
struct ShapeError : Error {
  explicit ShapeError(const std::string& message) : Error(2, message) {}
};

template <class... Args>
void expect(bool holds, fmt::format_string<Args...> message, Args&&... args) {
  if (!holds) [[unlikely]]
    throw ShapeError(fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace ropewalk
