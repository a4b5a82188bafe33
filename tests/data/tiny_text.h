// Texts small enough to work out by hand.
#pragma once

#include <string>
#include <vector>

#include "data/concatenation.h"
#include "data/documents.h"

namespace ropewalk::testing {

using Ints = std::vector<int64_t>;

inline std::unique_ptr<Documents> tokenized(const std::vector<std::string>& texts) {
  return std::make_unique<TextDocuments>(texts, ByteTokenizer());
}

inline Ints contents(const Documents& documents, int64_t document) {
  Ints ids(documents.length(document));
  documents.read(document, 0, ids);
  return ids;
}

// Token ids as text: '|' for the end of a document, '.' for an ignored target.
inline std::string shown(const Ints& ids) {
  std::string text;
  for (const int64_t id : ids) text += id == 256 ? '|' : id == Sequence::kIgnored ? '.' : static_cast<char>(id);
  return text;
}

}  // namespace ropewalk::testing
