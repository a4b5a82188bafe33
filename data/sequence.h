// A row of tokens as the trainer gets it.
#pragma once

#include <cstdint>
#include <vector>

namespace ropewalk {

struct Sequence {
  static constexpr int64_t kIgnored = -1;  // a target that is not scored

  std::vector<int64_t> tokens, targets;  // [seq_len]
  std::vector<int64_t> document_begins;  // ascending, the first is 0: a row always starts afresh
};

}  // namespace ropewalk
