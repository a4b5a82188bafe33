// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ropewalk {

using Token = int32_t;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual int64_t vocabulary() const = 0;  // ids are in [0, vocabulary)
  // None for ids that came without their tokenizer: these have no text, and what needs one throws Error.
  virtual std::optional<Token> end_of_document() const = 0;
  bool has_text() const { return end_of_document().has_value(); }

  virtual std::vector<Token> encode(std::string_view text) const = 0;  // without an end of document; safe from several threads
  // What a token adds to a text that it goes on with; an end of document adds nothing.
  virtual std::string text_of(Token token) const = 0;
  // A whole text.
  virtual std::string decode(std::span<const Token> tokens) const;
};

// Ids 0 to 255 are the bytes, 256 ends a document.
class ByteTokenizer final : public Tokenizer {
 public:
  static constexpr int64_t kVocabulary = 257;

  int64_t vocabulary() const override { return kVocabulary; }
  std::optional<Token> end_of_document() const override { return 256; }

  std::vector<Token> encode(std::string_view text) const override;
  std::string text_of(Token token) const override;
};

// Ids of data that is already tokenized, by whatever.
class UnknownTokenizer final : public Tokenizer {
 public:
  explicit UnknownTokenizer(int64_t vocabulary) : vocabulary_(vocabulary) {}

  int64_t vocabulary() const override { return vocabulary_; }
  std::optional<Token> end_of_document() const override { return std::nullopt; }

  std::vector<Token> encode(std::string_view text) const override;
  std::string text_of(Token token) const override;

 private:
  int64_t vocabulary_;
};

struct TokenizerOptions {
  enum Kind { kBytes, kSentencePiece, kUnknown } kind = kBytes;
  std::string path;  // of a SentencePiece model
  int64_t vocabulary = ByteTokenizer::kVocabulary;
  bool operator==(const TokenizerOptions&) const = default;
};

// Throws DataError where there is no such model, or one without an end of document.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerOptions& options);

}  // namespace ropewalk
