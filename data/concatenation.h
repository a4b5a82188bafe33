// How rows come from documents.
#pragma once

#include <cstdint>
#include <vector>

#include "data/documents.h"
#include "data/sequence.h"

namespace ropewalk {

// Documents in some order, laid end to end. One of tokens t(0) .. t(n-1) takes n + 1 positions:
//   token   end   t(0) .. t(n-2) t(n-1)
//   target  t(0)  t(1) .. t(n-1) end
// As a token the end opens a document, as a target it closes one; so every token and every end is predicted once, from its own document.
class Concatenation {
 public:
  Concatenation(const Documents& documents, std::vector<int64_t> order);

  int64_t positions() const { return begins_.back(); }
  // Appends the positions [begin, end) to the row. `documents` are those of the constructor, which may have moved since.
  void append(const Documents& documents, int64_t begin, int64_t end, Sequence& row) const;

 private:
  std::vector<int64_t> order_;
  std::vector<int64_t> begins_ = {0};  // first position of each document in order, and the end of the last
};

}  // namespace ropewalk
