// The held-out documents as rows: each once, in their order, so that every token and every end is scored exactly once.
#pragma once

#include <cstdint>

#include "data/concatenation.h"
#include "data/documents.h"

namespace ropewalk {

class ValidationRows {
 public:
  ValidationRows(Documents documents, int64_t seq_len, bool packed);

  int64_t count() const;
  // Row i in [0, count). The last one is filled up with a document of end tokens whose targets are ignored.
  Sequence at(int64_t i) const;

 private:
  Documents documents_;
  Concatenation concatenation_;
  int64_t seq_len_;
  bool packed_;
};

}  // namespace ropewalk
