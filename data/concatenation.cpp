#include "data/concatenation.h"

#include <algorithm>
#include <span>

namespace ropewalk {
namespace {

// Positions [begin, end) of one document.
void append_document(std::span<const Token> document, Token end_of_document, int64_t begin, int64_t end, Sequence& row) {
  row.document_begins.push_back(std::ssize(row.tokens));
  for (int64_t p = begin; p < end; ++p) {
    row.tokens.push_back(p == 0 ? end_of_document : document[p - 1]);
    row.targets.push_back(p == std::ssize(document) ? end_of_document : document[p]);
  }
}

}  // namespace

Concatenation::Concatenation(const Documents& documents, std::vector<int64_t> order) : order_(std::move(order)) {
  begins_.reserve(order_.size() + 1);
  for (const int64_t document : order_) begins_.push_back(begins_.back() + std::ssize(documents[document]) + 1);
}

void Concatenation::append(const Documents& documents, int64_t begin, int64_t end, Sequence& row) const {
  size_t k = std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin() - 1;
  for (int64_t stop; begin < end; begin = stop, ++k) {
    stop = std::min(end, begins_[k + 1]);
    append_document(documents[order_[k]], documents.end_of_document(), begin - begins_[k], stop - begins_[k], row);
  }
}

}  // namespace ropewalk
