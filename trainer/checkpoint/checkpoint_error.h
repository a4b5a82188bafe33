// What cannot be written to or read from a checkpoint. Exit code 3. The message names the file and the tensors it is about, what was
// expected, what was found, and the way out.
#pragma once

#include "kernels/error.h"

namespace ropewalk {

struct CheckpointError : Error {
  template <class... Args>
  explicit CheckpointError(fmt::format_string<Args...> message, Args&&... args)
      : Error(3, fmt::format(message, std::forward<Args>(args)...)) {}
};

}  // namespace ropewalk
