#include "data/concatenation.h"

#include <algorithm>
#include <span>

namespace ropewalk {
namespace {

int64_t positions_of(const Documents& documents, int64_t document) {
  const int64_t length = documents.length(document);
  return documents.end_of_document() ? length + 1 : std::max<int64_t>(length - 1, 0);
}

// Tokens [begin, begin + into.size()) of a document that stands between its ends, where there are any.
void read_framed(const Documents& documents, int64_t document, int64_t begin, std::span<int64_t> into) {
  const std::optional<Token> end = documents.end_of_document();
  if (end && begin == 0) {
    into.front() = *end;
    into = into.subspan(1);
  } else if (end) {
    --begin;
  }
  const int64_t inside = std::min(std::ssize(into), documents.length(document) - begin);
  documents.read(document, begin, into.first(inside));
  if (inside < std::ssize(into)) into.back() = *end;
}

// Positions [begin, end) of one document.
void append_document(const Documents& documents, int64_t document, int64_t begin, int64_t end, Sequence& row) {
  std::vector<int64_t> framed(end - begin + 1);
  read_framed(documents, document, begin, framed);
  row.document_begins.push_back(std::ssize(row.tokens));
  row.tokens.insert(row.tokens.end(), framed.begin(), framed.end() - 1);
  row.targets.insert(row.targets.end(), framed.begin() + 1, framed.end());
}

}  // namespace

Concatenation::Concatenation(const Documents& documents, const Permutation& order) : order_(order) {
  for (int64_t k = 0; k < documents.count(); ++k) {
    if (k % kStride == 0) begins_.push_back(positions_);
    positions_ += positions_of(documents, order_(k));
  }
}

void Concatenation::append(const Documents& documents, int64_t begin, int64_t end, Sequence& row) const {
  const auto stride = std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin() - 1;
  int64_t first = begins_[stride];
  for (int64_t k = stride * kStride; begin < end; ++k) {
    const int64_t document = order_(k), behind = first + positions_of(documents, document), stop = std::min(end, behind);
    if (begin < stop) append_document(documents, document, begin - first, stop - first, row);
    begin = std::max(begin, stop);
    first = behind;
  }
}

}  // namespace ropewalk
