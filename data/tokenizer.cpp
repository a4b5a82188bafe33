#include "data/tokenizer.h"

#include <cassert>

namespace ropewalk {

std::vector<Token> ByteTokenizer::encode(std::string_view text) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  return std::vector<Token>(bytes, bytes + text.size());
}

std::string ByteTokenizer::decode(std::span<const Token> tokens) const {
  std::string text;
  for (const Token token : tokens) {
    assert(0 <= token && token < vocabulary());
    if (token != end_of_document()) text += static_cast<char>(token);
  }
  return text;
}

}  // namespace ropewalk
