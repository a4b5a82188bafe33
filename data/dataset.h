// All that a run reads, from its options.
#pragma once

#include <memory>

#include "data/options.h"
#include "data/sequence.h"

namespace ropewalk {

struct Dataset {
  std::unique_ptr<Sequences> train;
  std::unique_ptr<ScoredRows> validation;   // none where nothing is held out
  std::optional<int64_t> validation_bytes;  // of the text behind these rows, where there is one
  bool recall = false;                      // the targets are answers: right or wrong
};

// Throws DataError where the data is not there, is not what it should be, or holds too little.
Dataset load_dataset(const DataOptions& options, const Tokenizer& tokenizer, uint64_t seed);

}  // namespace ropewalk
