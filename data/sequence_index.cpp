#include "data/sequence_index.h"

#include <algorithm>
#include <utility>

#include "data/error.h"

namespace ropewalk {
namespace {

// Part of the digest: another number for each way to make an order of a seed, so that no run goes on with other data than it began with.
constexpr uint64_t kOrder = 2;

}  // namespace

SequenceIndex::SequenceIndex(std::unique_ptr<Documents> documents, uint64_t seed, int64_t seq_len, bool packed)
    : documents_(std::move(documents)), seed_(seed), seq_len_(seq_len), packed_(packed) {
  expect(seq_len > 0, "data.seq_len: expected at least 1, given {}", seq_len);
  if (epoch(0).positions() == 0)
    throw DataError(fmt::format("data: expected documents to train on, given {} without a token to predict", documents_->count()));
}

Sequence SequenceIndex::at(int64_t i) const {
  const int64_t epoch_length = epochs_.begin()->second.positions();  // the same for all
  Sequence row;
  for (int64_t position = i * seq_len_, end = position + seq_len_; position < end;) {
    const int64_t e = position / epoch_length, epoch_begin = e * epoch_length;
    const int64_t stop = std::min(end, epoch_begin + epoch_length);
    epoch(e).append(*documents_, position - epoch_begin, stop - epoch_begin, row);
    position = stop;
  }
  if (!packed_) row.document_begins = {0};
  return row;
}

uint64_t SequenceIndex::digest() const { return documents_->digest() + kOrder; }

const Concatenation& SequenceIndex::epoch(int64_t epoch) const {
  if (const auto cached = epochs_.find(epoch); cached != epochs_.end()) return cached->second;
  const Permutation order(documents_->count(), Philox(seed_, documents_->digest()), epoch);
  Concatenation made(*documents_, order);
  if (epochs_.size() == 2) epochs_.erase(epochs_.begin());  // training moves forward, so the earlier one is done with
  return epochs_.emplace(epoch, std::move(made)).first->second;
}

}  // namespace ropewalk
