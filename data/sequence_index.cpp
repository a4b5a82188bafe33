#include "data/sequence_index.h"

#include <algorithm>
#include <utility>

#include "kernels/error.h"
#include "kernels/tensor/philox.h"

namespace ropewalk {

SequenceIndex::SequenceIndex(Documents documents, uint64_t seed, int64_t seq_len, bool packed)
    : documents_(std::move(documents)), seed_(seed), seq_len_(seq_len), packed_(packed) {
  expect(documents_.count() > 0, "data: expected at least one document to train on, given none");
  expect(seq_len > 0, "data.seq_len: expected at least 1, given {}", seq_len);
}

Sequence SequenceIndex::at(int64_t i) const {
  const int64_t epoch_length = documents_.tokens() + documents_.count();
  Sequence row;
  for (int64_t position = i * seq_len_, end = position + seq_len_; position < end;) {
    const int64_t e = position / epoch_length, epoch_begin = e * epoch_length;
    const int64_t stop = std::min(end, epoch_begin + epoch_length);
    epoch(e).append(documents_, position - epoch_begin, stop - epoch_begin, row);
    position = stop;
  }
  if (!packed_) row.document_begins = {0};
  return row;
}

// Documents sorted by a random key each; equal keys by index.
std::vector<int64_t> SequenceIndex::order(int64_t epoch) const {
  const Philox random(seed_, documents_.digest());
  const int64_t count = documents_.count();
  std::vector<std::pair<uint64_t, int64_t>> keyed(count);
  for (int64_t k = 0; k < count; ++k) keyed[k] = {random.integer(epoch * count + k), k};
  std::sort(keyed.begin(), keyed.end());
  std::vector<int64_t> order(count);
  std::transform(keyed.begin(), keyed.end(), order.begin(), [](const auto& key_and_index) { return key_and_index.second; });
  return order;
}

const Concatenation& SequenceIndex::epoch(int64_t epoch) const {
  if (const auto cached = epochs_.find(epoch); cached != epochs_.end()) return cached->second;
  if (epochs_.size() == 2) epochs_.erase(epochs_.begin());  // training moves forward, so the earlier one is done with
  return epochs_.emplace(epoch, Concatenation(documents_, order(epoch))).first->second;
}

}  // namespace ropewalk
