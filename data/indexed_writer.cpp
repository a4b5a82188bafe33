#include "data/indexed_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "data/error.h"

namespace ropewalk {
namespace {

constexpr int64_t kLongest = std::numeric_limits<int32_t>::max();  // tokens of a sequence

template <class T>
void write_all(OutputFile& file, const std::vector<T>& values) {
  file.write(values.data(), values.size() * sizeof(T));
}

template <class T>
void write_value(OutputFile& file, T value) {
  file.write(&value, sizeof value);
}

}  // namespace

IndexedWriter::IndexedWriter(const std::string& prefix, TokenType type)
    : prefix_(prefix), type_(type), tokens_file_(prefix + ".bin"), index_file_(prefix + ".idx") {}

void IndexedWriter::append(std::span<const Token> document) {
  dispatch_token(type_, [&]<class T>(std::type_identity<T>) {
    const std::vector<T> tokens(document.begin(), document.end());
    write_all(tokens_file_, tokens);
  });
  tokens_ += std::ssize(document);
  for (int64_t left = std::ssize(document); left > 0; left -= kLongest) lengths_.push_back(static_cast<int32_t>(std::min(left, kLongest)));
  first_sequences_.push_back(std::ssize(lengths_));
}

// An index never stands beside tokens that it does not describe: the old one goes before the new tokens come.
void IndexedWriter::finish() {
  write_index();
  tokens_file_.sync();
  index_file_.sync();
  const std::string index = prefix_ + ".idx";
  if (unlink(index.c_str()) != 0 && errno != ENOENT)
    throw DataError(fmt::format("{}: cannot be replaced: {}", index, std::strerror(errno)));
  tokens_file_.publish();
  index_file_.publish();
}

void IndexedWriter::write_index() {
  index_file_.write(kIndexMagic.data(), kIndexMagic.size());
  write_value(index_file_, kIndexVersion);
  write_value(index_file_, type_);
  write_value(index_file_, static_cast<uint64_t>(lengths_.size()));
  write_value(index_file_, static_cast<uint64_t>(first_sequences_.size()));
  write_all(index_file_, lengths_);
  int64_t pointer = 0;
  for (const int32_t length : lengths_) {
    write_value(index_file_, pointer);
    pointer += length * size_of(type_);
  }
  write_all(index_file_, first_sequences_);
}

}  // namespace ropewalk
