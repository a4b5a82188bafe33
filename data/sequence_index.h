// The training data as a pure function: sequence i depends on (seed, digest of the documents, i) and on nothing that was asked before,
// so a run's data cursor is one integer and any rank can compute any sequence.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "data/concatenation.h"
#include "data/documents.h"

namespace ropewalk {

// An endless stream of epochs, cut into sequences of seq_len. Each epoch is all the documents once, in an order of its own. A sequence may
// span documents and epochs. Not thread-safe: at() caches the orders of the epochs it needs.
class SequenceIndex {
 public:
  // Not packed: a row counts as one document, so state, positions and attention run on across the documents in it.
  SequenceIndex(Documents documents, uint64_t seed, int64_t seq_len, bool packed);

  const Documents& documents() const { return documents_; }
  Sequence at(int64_t i) const;

 private:
  std::vector<int64_t> order(int64_t epoch) const;
  const Concatenation& epoch(int64_t epoch) const;

  Documents documents_;
  uint64_t seed_;
  int64_t seq_len_;
  bool packed_;
  mutable std::map<int64_t, Concatenation> epochs_;  // at most two
};

}  // namespace ropewalk
