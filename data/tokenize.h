// Text to an indexed dataset.
#pragma once

#include <optional>
#include <string>

#include "data/sentencepiece_tokenizer.h"
#include "data/text_source.h"
#include "data/tokenizer.h"

namespace ropewalk {

struct TokenizeOptions {
  TextSource text;
  std::string prefix;                             // of the dataset, and of the model where one is trained
  TokenizerOptions tokenizer;                     // where none is trained
  std::optional<SentencePieceTraining> training;  // on the same text, first
};

struct TokenizeReport {
  int64_t documents = 0, tokens = 0, bytes = 0;  // tokens: with an end for each document
};

// Writes PREFIX.idx and PREFIX.bin, and before them PREFIX.model where one is trained; each whole or not at all. A document ends with the
// tokenizer's end of document. Tokens are uint16 where the vocabulary fits, else int32.
TokenizeReport tokenize(const TokenizeOptions& options);

}  // namespace ropewalk
