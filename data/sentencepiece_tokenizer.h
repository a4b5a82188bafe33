// Subword tokenizers in SentencePiece's format (Kudo and Richardson, EMNLP 2018; Kudo, ACL 2018): using a model file, and training one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/text_source.h"
#include "data/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace ropewalk {

// A model's eos ends a document.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  // Throws DataError where the file cannot be read, is no model, or has no eos.
  explicit SentencePieceTokenizer(const std::string& path);
  ~SentencePieceTokenizer() override;

  int64_t vocabulary() const override;
  std::optional<Token> end_of_document() const override;

  std::vector<Token> encode(std::string_view text) const override;
  std::string text_of(Token token) const override;
  std::string decode(std::span<const Token> tokens) const override;

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  bool opens_with_space_;  // the model puts a space before a text, which is none of it
};

struct SentencePieceTraining {
  int64_t vocabulary = 0;
  std::string model_type = "unigram";  // or bpe
};

// Trains a model on a text, line by line, and returns the bytes of its file. What it encodes it decodes to the same bytes, where the text
// is UTF-8: no normalisation, no space in front, bytes for characters that have no piece. Throws Error where the trainer refuses.
std::string train_sentencepiece(const TextSource& text, const SentencePieceTraining& training);

}  // namespace ropewalk
