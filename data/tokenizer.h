// Text to token ids and back.
#pragma once

#include <cstdint>
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
  virtual Token end_of_document() const = 0;

  virtual std::vector<Token> encode(std::string_view text) const = 0;   // without an end of document
  virtual std::string decode(std::span<const Token> tokens) const = 0;  // an end of document has no text
};

// Ids 0 to 255 are the bytes, 256 ends a document.
class ByteTokenizer final : public Tokenizer {
 public:
  int64_t vocabulary() const override { return 257; }
  Token end_of_document() const override { return 256; }

  std::vector<Token> encode(std::string_view text) const override;
  std::string decode(std::span<const Token> tokens) const override;
};

}  // namespace ropewalk
