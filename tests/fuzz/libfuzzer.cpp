// libFuzzer's entry to a target.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ropewalk::fuzz::run_one(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
