#include "data/documents.h"

#include <xxhash.h>

#include <algorithm>

#include "data/encode_all.h"

namespace ropewalk {
namespace {

template <class T>
uint64_t hash(const std::vector<T>& values, uint64_t seed = 0) {
  return XXH3_64bits_withSeed(values.data(), values.size() * sizeof(T), seed);
}

}  // namespace

TextDocuments::TextDocuments(const std::vector<std::string>& texts, const Tokenizer& tokenizer)
    : end_of_document_(tokenizer.end_of_document()) {
  for (const std::vector<Token>& tokens : encode_all(tokenizer, texts)) {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    begins_.push_back(std::ssize(tokens_));
  }
  digest_ = hash(tokens_, hash(begins_, static_cast<uint64_t>(end_of_document_.value_or(-1))));
}

void TextDocuments::read(int64_t document, int64_t begin, std::span<int64_t> into) const {
  std::copy_n(tokens_.begin() + begins_[document] + begin, into.size(), into.begin());
}

}  // namespace ropewalk
