// How rows come from documents.
#pragma once

#include <cstdint>
#include <vector>

#include "data/documents.h"
#include "data/permutation.h"
#include "data/sequence.h"

namespace ropewalk {

// Documents in some order, laid end to end. One of tokens t(0) .. t(n-1) takes n + 1 positions:
//   token   end   t(0) .. t(n-2) t(n-1)
//   target  t(0)  t(1) .. t(n-1) end
// As a token the end opens a document, as a target it closes one; so every token and every end is predicted once, from its own document.
// Where no end is known a document takes the n - 1 positions between; then its first token is predicted from nothing, so not at all.
//
// Keeps one number for every kStride documents: 4 MB for 10^8 documents.
class Concatenation {
 public:
  Concatenation(const Documents& documents, const Permutation& order);

  int64_t positions() const { return positions_; }
  // Appends the positions [begin, end) to the row. `documents` are those of the constructor.
  void append(const Documents& documents, int64_t begin, int64_t end, Sequence& row) const;

 private:
  static constexpr int64_t kStride = 256;

  Permutation order_;
  std::vector<int64_t> begins_;  // first position of every kStride-th document in order
  int64_t positions_ = 0;
};

}  // namespace ropewalk
