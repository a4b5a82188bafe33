#include "data/dataset_index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "data/error.h"

namespace ropewalk {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian, and read as it lies");

constexpr int64_t kVersionAt = 9, kTypeAt = 17, kSequencesAt = 18, kDocumentsAt = 26, kTablesAt = 34;
constexpr int64_t kMostEntries = int64_t{1} << 48;  // so that sizes of tables do not overflow

template <class Expected, class Given>
[[noreturn]] void refuse(const std::string& file, int64_t offset, const std::string& field, const Expected& expected, const Given& given) {
  throw DataError(fmt::format("{}: offset {}: {}: expected {}, given {}", file, offset, field, expected, given));
}

bool is_token_type(uint8_t code) { return (code >= 1 && code <= 5) || code == 8; }

}  // namespace

int64_t size_of(TokenType type) {
  int64_t size = 0;
  dispatch_token(type, [&]<class T>(std::type_identity<T>) { size = sizeof(T); });
  return size;
}

template <class T>
T DatasetIndex::at(int64_t offset) const {
  T value;
  std::memcpy(&value, bytes_.data() + offset, sizeof value);  // tables are not aligned
  return value;
}

DatasetIndex::DatasetIndex(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes) {
  check_header(file);
  check_sequences(file);
  check_documents(file);
}

void DatasetIndex::check_header(const std::string& file) {
  const int64_t size = std::ssize(bytes_);
  if (size < kTablesAt) refuse(file, size, "header", fmt::format("{} bytes", kTablesAt), "the end of the file");
  if (std::memcmp(bytes_.data(), kIndexMagic.data(), kIndexMagic.size()) != 0) refuse(file, 0, "magic", "MMIDIDX", "something else");
  if (at<uint64_t>(kVersionAt) != kIndexVersion) refuse(file, kVersionAt, "version", kIndexVersion, at<uint64_t>(kVersionAt));
  const auto code = at<uint8_t>(kTypeAt);
  if (!is_token_type(code)) refuse(file, kTypeAt, "dtype", "a code of integers (1 to 5, or 8)", code);
  type_ = static_cast<TokenType>(code);

  const auto sequences = at<uint64_t>(kSequencesAt), documents = at<uint64_t>(kDocumentsAt);
  if (sequences > kMostEntries) refuse(file, kSequencesAt, "sequences", fmt::format("at most {}", kMostEntries), sequences);
  if (documents < 1 || documents > kMostEntries)
    refuse(file, kDocumentsAt, "documents + 1", fmt::format("1 to {}", kMostEntries), documents);
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(documents) - 1;
  lengths_ = kTablesAt;
  pointers_ = lengths_ + 4 * sequences_;
  firsts_ = pointers_ + 8 * sequences_;
  const int64_t whole = firsts_ + 8 * (documents_ + 1);
  if (size != whole) refuse(file, std::min(size, whole), "end of the file", fmt::format("{} bytes", whole), fmt::format("{} bytes", size));
}

void DatasetIndex::check_sequences(const std::string& file) {
  const int64_t most_tokens = std::numeric_limits<int64_t>::max() / size_of(type_);
  for (int64_t s = 0; s < sequences_; ++s) {
    const int64_t length = length_of(s), pointer = at<int64_t>(pointers_ + s * 8), expected = tokens_ * size_of(type_);
    if (length < 0) refuse(file, lengths_ + s * 4, fmt::format("length of sequence {}", s), "0 or more", length);
    if (pointer != expected) refuse(file, pointers_ + s * 8, fmt::format("pointer of sequence {}", s), expected, pointer);
    if (length > most_tokens - tokens_) refuse(file, lengths_ + s * 4, fmt::format("length of sequence {}", s), "fewer", length);
    tokens_ += length;
  }
}

void DatasetIndex::check_documents(const std::string& file) const {
  for (int64_t d = 0, least = 0; d <= documents_; ++d) {
    const int64_t first = first_sequence_of(d), offset = firsts_ + d * 8;
    if (d == 0 && first != 0) refuse(file, offset, "first sequence of document 0", 0, first);
    if (d == documents_ && first != sequences_) refuse(file, offset, "end of the last document", sequences_, first);
    if (first < least || first > sequences_)
      refuse(file, offset, fmt::format("first sequence of document {}", d), fmt::format("{} to {}", least, sequences_), first);
    least = first;
  }
}

int64_t DatasetIndex::begin_of(int64_t document) const {
  const int64_t sequence = first_sequence_of(document);
  return sequence == sequences_ ? tokens_ : at<int64_t>(pointers_ + sequence * 8) / size_of(type_);
}

}  // namespace ropewalk
