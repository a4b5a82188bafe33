#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include "kernels/error.h"

namespace ropewalk {
namespace {

TEST(ByteTokenizer, GivesEachByteItsValue) {
  const ByteTokenizer bytes;
  EXPECT_EQ(bytes.encode(std::string_view("a\0\xff\n", 4)), (std::vector<Token>{97, 0, 255, 10}));
  EXPECT_EQ(bytes.vocabulary(), 257);
  EXPECT_EQ(bytes.end_of_document(), 256);
}

TEST(ByteTokenizer, DecodesWhatItEncoded) {
  std::string every_byte;
  for (int byte = 0; byte < 256; ++byte) every_byte += static_cast<char>(byte);
  const ByteTokenizer bytes;
  EXPECT_EQ(bytes.decode(bytes.encode(every_byte)), every_byte);
}

TEST(UnknownTokenizer, HasIdsButNoText) {
  const auto ids = make_tokenizer({.kind = TokenizerOptions::kUnknown, .path = {}, .vocabulary = 50304});
  EXPECT_EQ(ids->vocabulary(), 50304);
  EXPECT_FALSE(ids->has_text());
  EXPECT_THROW(ids->encode("a"), Error);
  EXPECT_THROW(ids->decode(std::vector<Token>{1}), Error);
}

TEST(ByteTokenizer, DecodesAnEndToNothing) { EXPECT_EQ(ByteTokenizer().decode(std::vector<Token>{97, 256, 98}), "ab"); }

}  // namespace
}  // namespace ropewalk
