// Sequences out of documents.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "data/concatenation.h"
#include "data/documents.h"
#include "data/sequence.h"

namespace ropewalk {

// An endless stream of epochs, cut into sequences of seq_len. Each epoch is all the documents once, in an order of its own. A sequence may
// span documents and epochs.
class SequenceIndex final : public Sequences {
 public:
  // Not packed: a row counts as one document, so state, positions and attention run on across the documents in it.
  SequenceIndex(std::unique_ptr<Documents> documents, uint64_t seed, int64_t seq_len, bool packed);

  Sequence at(int64_t i) const override;
  uint64_t digest() const override;
  int64_t tokens() const override { return documents_->tokens(); }

 private:
  const Concatenation& epoch(int64_t epoch) const;

  std::unique_ptr<Documents> documents_;
  uint64_t seed_;
  int64_t seq_len_;
  bool packed_;
  mutable std::map<int64_t, Concatenation> epochs_;  // at most two
};

}  // namespace ropewalk
