#include "data/indexed_documents.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "data/error.h"
#include "data/hold_out.h"

namespace ropewalk {
namespace {

constexpr int64_t kProbes = 64;  // documents looked at for their end, blocks of the digest
constexpr int64_t kBlock = 1 << 16;

}  // namespace

IndexedFile::IndexedFile(const std::string& prefix, int64_t vocabulary, std::optional<Token> end)
    : index_file_(prefix + ".idx"),
      token_file_(prefix + ".bin"),
      index_(index_file_.bytes(), index_file_.path()),
      vocabulary_(vocabulary),
      end_(end) {
  const int64_t expected = index_.tokens() * size_of(index_.type()), given = std::ssize(token_file_.bytes());
  if (given != expected)
    throw DataError(fmt::format("{}: expected {} bytes ({} tokens of {} in {}), given {}", token_file_.path(), expected, index_.tokens(),
                                size_of(index_.type()), index_file_.path(), given));
  holds_ends_ = find_ends();
}

bool IndexedFile::find_ends() const {
  if (!end_) return false;
  const int64_t count = index_.documents(), step = std::max<int64_t>(1, count / kProbes);
  int64_t with = 0, without = 0;
  for (int64_t d = 0; d < count; d += step) {
    const int64_t begin = index_.begin_of(d), behind = index_.begin_of(d + 1);
    if (begin == behind) continue;
    std::array<int64_t, 1> last;
    read(behind - 1, last);
    ++(last[0] == *end_ ? with : without);
    if (with > 0 && without > 0)
      throw DataError(fmt::format("{}: document {}: expected an end of document ({}) behind all documents or behind none, given {}",
                                  token_file_.path(), d, *end_, last[0]));
  }
  return with > 0;
}

void IndexedFile::expect_end(int64_t at) const {
  std::array<int64_t, 1> token;
  read(at, token);
  if (token[0] != *end_)
    throw DataError(fmt::format("{}: offset {}: expected an end of document ({}), as behind other documents, given {}", token_file_.path(),
                                at * size_of(index_.type()), *end_, token[0]));
}

void IndexedFile::read(int64_t begin, std::span<int64_t> into) const {
  const std::byte* const from = token_file_.bytes().data() + begin * size_of(index_.type());
  dispatch_token(index_.type(), [&]<class T>(std::type_identity<T>) {
    for (size_t i = 0; i < into.size(); ++i) {
      T token;
      std::memcpy(&token, from + i * sizeof(T), sizeof(T));
      into[i] = token;
    }
  });
  const auto outside = std::find_if(into.begin(), into.end(), [&](int64_t token) { return token < 0 || token >= vocabulary_; });
  if (outside != into.end())
    throw DataError(fmt::format("{}: offset {}: expected a token of 0 to {} (model.tokenizer), given {}", token_file_.path(),
                                (begin + (outside - into.begin())) * size_of(index_.type()), vocabulary_ - 1, *outside));
}

uint64_t IndexedFile::digest() const {
  uint64_t digest = XXH3_64bits_withSeed(index_file_.bytes().data(), index_file_.bytes().size(), static_cast<uint64_t>(end_.value_or(-1)));
  const std::span<const std::byte> tokens = token_file_.bytes();
  const int64_t step = std::max(kBlock, (std::ssize(tokens) + kProbes - 1) / kProbes);
  for (int64_t at = 0; at < std::ssize(tokens); at += step)
    digest = XXH3_64bits_withSeed(tokens.data() + at, std::min(kBlock, std::ssize(tokens) - at), digest);
  return digest;
}

IndexedDocuments::IndexedDocuments(std::shared_ptr<const IndexedFile> file, const Selection& selection)
    : file_(std::move(file)), selection_(selection) {
  const DatasetIndex& index = file_->index();
  const auto documents_before = [&](int64_t token) {  // that begin before it
    int64_t least = 0, most = index.documents();
    while (least < most) {
      const int64_t middle = least + (most - least) / 2;
      if (index.begin_of(middle) < token)
        least = middle + 1;
      else
        most = middle;
    }
    return least;
  };
  const int64_t all = documents_before(selection.end_token);
  if (selection.first_token > 0) first_ = documents_before(selection.first_token + 1) - 1;
  const int64_t period = selection.period, periods = period == 0 ? 0 : all / period;
  count_ = period == 0 ? all - first_ : selection.last_of_period ? periods : all - periods;
  for (int64_t k = 0; k < count_; ++k) tokens_ += length(k);
}

int64_t IndexedDocuments::number_of(int64_t document) const {
  const int64_t period = selection_.period;
  if (period == 0) return first_ + document;
  return selection_.last_of_period ? document * period + period - 1 : document + document / (period - 1);
}

IndexedDocuments::Range IndexedDocuments::range_of(int64_t document) const {
  const int64_t number = number_of(document), begin = file_->index().begin_of(number), end = file_->index().begin_of(number + 1);
  return {.begin = std::max(begin, selection_.first_token),
          .end = std::min(end, selection_.end_token),
          .has_end = file_->holds_ends() && begin < end && end <= selection_.end_token};
}

int64_t IndexedDocuments::length(int64_t document) const {
  const Range range = range_of(document);
  return range.end - range.begin - (range.has_end ? 1 : 0);
}

void IndexedDocuments::read(int64_t document, int64_t begin, std::span<int64_t> into) const {
  const Range range = range_of(document);
  file_->read(range.begin + begin, into);
  const bool to_the_end = begin + std::ssize(into) == length(document);
  if (range.has_end && to_the_end) file_->expect_end(range.end - 1);
}

uint64_t IndexedDocuments::digest() const {
  const std::array<int64_t, 4> which = {selection_.period, selection_.last_of_period, selection_.first_token, selection_.end_token};
  return XXH3_64bits_withSeed(which.data(), sizeof which, file_->digest());
}

IndexedSplit hold_out(const std::shared_ptr<const IndexedFile>& file, double share) {
  const int64_t count = file->index().documents(), tokens = file->index().tokens();
  IndexedDocuments::Selection train{.end_token = tokens}, validation{.end_token = tokens};
  if (share == 0) return {.train = std::make_unique<IndexedDocuments>(file, train), .validation = nullptr};
  if (static_cast<double>(count) < 1 / share) {
    train.end_token = validation.first_token = tokens - std::llround(share * static_cast<double>(tokens));
  } else {
    train.period = validation.period = std::llround(1 / share);
    validation.last_of_period = true;
  }
  const bool no_training = train.period == 1 || train.end_token == 0;
  if (no_training || validation.first_token == tokens) throw nothing_left(share, count, fmt::format("{} tokens", tokens), no_training);
  return {.train = std::make_unique<IndexedDocuments>(file, train), .validation = std::make_unique<IndexedDocuments>(file, validation)};
}

}  // namespace ropewalk
