#include "data/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>

#include "tests/data/files.h"

namespace ropewalk {
namespace {

using testing::data_error;
using ::testing::HasSubstr;

// A text with enough words to train on.
std::string verses() {
  std::string text;
  for (int k = 0; k < 200; ++k) {
    text += fmt::format("And it came to pass in the {}th day, that strand {} was laid into one rope,\n", k * 7 % 31, k % 17);
    text += fmt::format("and the ropewalk's {} spinners walked backwards.\n\n", k * k % 23);
  }
  return text;
}

class SentencePiece : public testing::FilesTest {
 protected:
  std::string trained(const std::string& type, int64_t vocabulary = 300) const {
    return write(type + ".model",
                 train_sentencepiece({.path = write("text.txt", verses())}, {.vocabulary = vocabulary, .model_type = type}));
  }
};

TEST_F(SentencePiece, HasTheVocabularyItWasTrainedTo) {
  for (const char* type : {"unigram", "bpe"}) {
    const SentencePieceTokenizer tokenizer(trained(type));
    EXPECT_EQ(tokenizer.vocabulary(), 300);
    ASSERT_TRUE(tokenizer.has_text());
    EXPECT_LT(*tokenizer.end_of_document(), 300);
  }
}

TEST_F(SentencePiece, DecodesWhatItEncoded) {
  const std::string odd = "  two  spaces\n\n\ttab, é, 中文, \x01 and no newline";
  for (const char* type : {"unigram", "bpe"}) {
    const SentencePieceTokenizer tokenizer(trained(type));
    for (const std::string& text : {verses(), odd, std::string(" "), std::string()})
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    EXPECT_LT(tokenizer.encode(verses()).size(), verses().size());
  }
}

TEST_F(SentencePiece, SpellsATextTokenByToken) {
  const SentencePieceTokenizer tokenizer(trained("unigram"));
  std::string spelled;
  for (const Token token : tokenizer.encode("the rope é")) spelled += tokenizer.text_of(token);
  EXPECT_EQ(spelled, "the rope é");
  EXPECT_EQ(tokenizer.text_of(*tokenizer.end_of_document()), "");
}

TEST_F(SentencePiece, TrainsTheSameModelTwice) { EXPECT_EQ(read(trained("unigram")), read(trained("unigram"))); }

TEST_F(SentencePiece, SaysWhyItCannotBeTrained) {
  try {
    trained("unigram", 100'000);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 2);
    EXPECT_THAT(error.what(), HasSubstr("SentencePiece cannot train 100000 pieces: Vocabulary size too high (100000)."));
  }
}

TEST_F(SentencePiece, NamesAFileThatIsNoModel) {
  EXPECT_EQ(data_error([&] { SentencePieceTokenizer("nowhere.model"); }), "nowhere.model: no such file; expected a SentencePiece model");
  const std::string text = write("text.model", "just words");
  EXPECT_EQ(data_error([&] { SentencePieceTokenizer{text}; }), text + ": is not a SentencePiece model");
}

}  // namespace
}  // namespace ropewalk
