// Tokenized documents, one after the other in a single array.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace ropewalk {

class Documents {
 public:
  Documents(const std::vector<std::string>& texts, const Tokenizer& tokenizer);

  int64_t count() const { return std::ssize(begins_) - 1; }
  int64_t tokens() const { return begins_.back(); }  // of all documents, without their ends
  std::span<const Token> operator[](int64_t document) const;
  Token end_of_document() const { return end_of_document_; }  // not stored

  // Depends on every token and on where documents begin.
  uint64_t digest() const { return digest_; }

 private:
  std::vector<Token> tokens_;
  std::vector<int64_t> begins_ = {0};  // of each document in tokens_, and the end of the last
  Token end_of_document_;
  uint64_t digest_;
};

}  // namespace ropewalk
