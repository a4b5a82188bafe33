// Tokenized documents, wherever they lie.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace ropewalk {

class Documents {
 public:
  virtual ~Documents() = default;

  virtual int64_t count() const = 0;
  virtual int64_t tokens() const = 0;                  // of all documents, without their ends
  virtual int64_t length(int64_t document) const = 0;  // in tokens, without its end
  // Tokens [begin, begin + into.size()) of a document.
  virtual void read(int64_t document, int64_t begin, std::span<int64_t> into) const = 0;
  // Depends on every token, on where documents begin and on what ends them (indexed_documents.h says how far).
  virtual uint64_t digest() const = 0;
  // What comes before and behind every document; none where the tokens are all there is to know.
  virtual std::optional<Token> end_of_document() const = 0;
};

// Texts, tokenized into memory.
class TextDocuments final : public Documents {
 public:
  TextDocuments(const std::vector<std::string>& texts, const Tokenizer& tokenizer);

  int64_t count() const override { return std::ssize(begins_) - 1; }
  int64_t tokens() const override { return begins_.back(); }
  int64_t length(int64_t document) const override { return begins_[document + 1] - begins_[document]; }
  void read(int64_t document, int64_t begin, std::span<int64_t> into) const override;
  uint64_t digest() const override { return digest_; }
  std::optional<Token> end_of_document() const override { return end_of_document_; }

 private:
  std::vector<Token> tokens_;
  std::vector<int64_t> begins_ = {0};  // of each document in tokens_, and the end of the last
  std::optional<Token> end_of_document_;
  uint64_t digest_;
};

}  // namespace ropewalk
