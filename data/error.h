#pragma once

#include "kernels/error.h"

namespace ropewalk {

// The data is missing, cannot be read, or holds too little.
struct DataError : Error {
  explicit DataError(const std::string& message) : Error(3, message) {}
};

}  // namespace ropewalk
