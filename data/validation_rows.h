// Documents as rows: each once, in their order, so that every token and every end is scored exactly once.
#pragma once

#include <cstdint>
#include <memory>

#include "data/concatenation.h"
#include "data/documents.h"
#include "data/sequence.h"

namespace ropewalk {

class ValidationRows final : public ScoredRows {
 public:
  ValidationRows(std::unique_ptr<Documents> documents, int64_t seq_len, bool packed);

  int64_t count() const override;
  // The last one is filled up with a document of end tokens whose targets are ignored.
  Sequence at(int64_t i) const override;

 private:
  std::unique_ptr<Documents> documents_;
  Concatenation concatenation_;
  int64_t seq_len_;
  bool packed_;
};

}  // namespace ropewalk
