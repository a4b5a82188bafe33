#include "data/validation_rows.h"

#include <algorithm>
#include <cassert>

#include "kernels/error.h"

namespace ropewalk {

ValidationRows::ValidationRows(std::unique_ptr<Documents> documents, int64_t seq_len, bool packed)
    : documents_(std::move(documents)), concatenation_(*documents_, Permutation(documents_->count())), seq_len_(seq_len), packed_(packed) {
  expect(seq_len > 0, "data.seq_len: expected at least 1, given {}", seq_len);
}

int64_t ValidationRows::count() const { return (concatenation_.positions() + seq_len_ - 1) / seq_len_; }

Sequence ValidationRows::at(int64_t i) const {
  assert(0 <= i && i < count());
  Sequence row;
  concatenation_.append(*documents_, i * seq_len_, std::min((i + 1) * seq_len_, concatenation_.positions()), row);
  if (std::ssize(row.tokens) < seq_len_) row.document_begins.push_back(std::ssize(row.tokens));
  row.tokens.resize(seq_len_, documents_->end_of_document().value_or(0));
  row.targets.resize(seq_len_, Sequence::kIgnored);
  if (!packed_) row.document_begins = {0};
  return row;
}

}  // namespace ropewalk
