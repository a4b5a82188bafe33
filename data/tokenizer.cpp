#include "data/tokenizer.h"

#include <cassert>

#include "data/sentencepiece_tokenizer.h"
#include "kernels/error.h"

namespace ropewalk {
namespace {

Error no_text() { return Error(2, "model.tokenizer: {vocab: N} knows no text; name a tokenizer: bytes or a SentencePiece model"); }

}  // namespace

std::string Tokenizer::decode(std::span<const Token> tokens) const {
  std::string text;
  for (const Token token : tokens) text += text_of(token);
  return text;
}

std::vector<Token> ByteTokenizer::encode(std::string_view text) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  return std::vector<Token>(bytes, bytes + text.size());
}

std::string ByteTokenizer::text_of(Token token) const {
  assert(0 <= token && token < vocabulary());
  return token == end_of_document() ? "" : std::string(1, static_cast<char>(token));
}

std::vector<Token> UnknownTokenizer::encode(std::string_view) const { throw no_text(); }

std::string UnknownTokenizer::text_of(Token) const { throw no_text(); }

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerOptions& options) {
  switch (options.kind) {
    case TokenizerOptions::kBytes: return std::make_unique<ByteTokenizer>();
    case TokenizerOptions::kSentencePiece: return std::make_unique<SentencePieceTokenizer>(options.path);
    case TokenizerOptions::kUnknown: return std::make_unique<UnknownTokenizer>(options.vocabulary);
  }
  return nullptr;
}

}  // namespace ropewalk
