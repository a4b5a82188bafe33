#include "data/documents.h"

#include <xxhash.h>

namespace ropewalk {
namespace {

template <class T>
uint64_t hash(const std::vector<T>& values, uint64_t seed = 0) {
  return XXH3_64bits_withSeed(values.data(), values.size() * sizeof(T), seed);
}

}  // namespace

Documents::Documents(const std::vector<std::string>& texts, const Tokenizer& tokenizer) : end_of_document_(tokenizer.end_of_document()) {
  for (const std::string& text : texts) {
    const std::vector<Token> tokens = tokenizer.encode(text);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    begins_.push_back(std::ssize(tokens_));
  }
  digest_ = hash(tokens_, hash(begins_));
}

std::span<const Token> Documents::operator[](int64_t document) const {
  return std::span(tokens_).subspan(begins_[document], begins_[document + 1] - begins_[document]);
}

}  // namespace ropewalk
