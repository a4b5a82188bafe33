#include "data/dataset.h"

#include <gmock/gmock.h>

#include "data/tokenize.h"
#include "tests/data/files.h"
#include "tests/data/tiny_text.h"

namespace ropewalk {
namespace {

using testing::Ints;

class DatasetTest : public testing::FilesTest {
 protected:
  // Thirty documents of the letter.
  TextSource text(const std::string& name, char letter) const {
    std::string documents;
    for (int k = 0; k < 30; ++k) documents += fmt::format("{} {} of {}\f", std::string(k % 7 + 1, letter), k, name);
    return {.path = write(name, documents), .documents = DocumentEnd::kFormFeed};
  }
  IndexedSource indexed(const std::string& name, const TextSource& text) const {
    tokenize({.text = text, .prefix = path(name), .tokenizer = {}, .training = {}});
    return {path(name)};
  }
  static Dataset loaded(const DataOptions& options) { return load_dataset(options, ByteTokenizer(), 1); }
  static void expect_same(const Dataset& a, const Dataset& b) {
    for (int64_t i = 0; i < 100; ++i) {
      EXPECT_EQ(a.validation->at(i % a.validation->count()).targets, b.validation->at(i % b.validation->count()).targets);
    }
    EXPECT_EQ(a.validation->count(), b.validation->count());
    EXPECT_EQ(a.validation_bytes, b.validation_bytes);
    EXPECT_EQ(a.train->tokens(), b.train->tokens());
  }
};

TEST_F(DatasetTest, OfAnIndexedSourceHoldsWhatItsTextHolds) {
  const TextSource from = text("a", 'a');
  const Dataset of_text = loaded({.source = from, .validation_source = {}, .seq_len = 16, .validation = 0.1});
  const Dataset of_index = loaded({.source = indexed("data", from), .validation_source = {}, .seq_len = 16, .validation = 0.1});
  expect_same(of_text, of_index);
}

TEST_F(DatasetTest, HasNoValidationWhereNothingIsHeldOut) {
  EXPECT_EQ(loaded({.source = text("a", 'a'), .validation_source = {}, .seq_len = 16}).validation, nullptr);
  EXPECT_EQ(loaded({.source = indexed("data", text("a", 'a')), .validation_source = {}, .seq_len = 16}).validation, nullptr);
}

TEST_F(DatasetTest, ValidatesOnTheWholeOfAValidationSource) {
  const TextSource held_out = text("b", 'b');
  const Dataset by_text = loaded({.source = text("a", 'a'), .validation_source = held_out, .seq_len = 16});
  const Dataset by_index = loaded({.source = text("a", 'a'), .validation_source = indexed("data", held_out), .seq_len = 16});
  expect_same(by_text, by_index);
  EXPECT_EQ(by_text.train->tokens(), by_text.validation_bytes);  // the two texts are of one length
}

TEST_F(DatasetTest, BlendsSourcesAndHoldsOutAShareOfEach) {
  const BlendSource blend{
      {{.weight = 3, .source = text("a", 'a'), .validation = 0.5}, {.weight = 1, .source = text("b", 'b'), .validation = {}}}};
  const Dataset dataset = loaded({.source = blend, .validation_source = {}, .seq_len = 32, .validation = 0.1});
  int of_b = 0;
  for (int64_t i = 0; i < 100; ++i) {
    const std::string row = testing::shown(dataset.train->at(i).targets);
    of_b += row.find('b') != row.npos && row.find('a') == row.npos;
  }
  EXPECT_EQ(of_b, 25);
  std::string scored;
  for (int64_t i = 0; i < dataset.validation->count(); ++i) scored += testing::shown(dataset.validation->at(i).targets);
  EXPECT_EQ(std::count(scored.begin(), scored.end(), '|'), 15 + 3);
}

TEST_F(DatasetTest, OfMqarAsksForRecall) {
  const MqarSource mqar{.vocab = 256, .train = {{.length = 64, .pairs = 4, .count = 10}}, .test = {{.length = 64, .pairs = 4, .count = 3}}};
  const Dataset dataset = loaded({.source = mqar, .validation_source = {}, .seq_len = 64});
  EXPECT_TRUE(dataset.recall);
  EXPECT_EQ(dataset.validation->count(), 3);
  EXPECT_EQ(dataset.validation_bytes, std::nullopt);
}

TEST_F(DatasetTest, CountsTheBytesOfSubwords) {
  const TextSource from = text("a", 'a');
  TokenizeOptions training{.text = from, .prefix = path("data"), .tokenizer = {}, .training = {}};
  training.training.emplace().vocabulary = 275;
  tokenize(training);
  const TokenizerOptions subwords{.kind = TokenizerOptions::kSentencePiece, .path = path("data.model")};
  const auto tokenizer = make_tokenizer(subwords);
  const DataOptions of_text{.source = from, .validation_source = {}, .seq_len = 16, .validation = 0.1};
  const DataOptions of_index{.source = IndexedSource{path("data")}, .validation_source = {}, .seq_len = 16, .validation = 0.1};
  expect_same(load_dataset(of_text, *tokenizer, 1), load_dataset(of_index, *tokenizer, 1));
  EXPECT_EQ(load_dataset(of_text, *tokenizer, 1).validation_bytes, loaded(of_text).validation_bytes);
}

class TokenizeTest : public DatasetTest {};

TEST_F(TokenizeTest, CountsWhatItWrote) {
  const TextSource from{.path = write("text", "ab\n\ncde\n"), .documents = DocumentEnd::kBlankLine};
  const TokenizeReport report = tokenize({.text = from, .prefix = path("folder/data"), .tokenizer = {}, .training = {}});
  EXPECT_EQ(report.documents, 2);
  EXPECT_EQ(report.tokens, 7 + 2);
  EXPECT_EQ(report.bytes, 7);
  EXPECT_EQ(read("folder/data.bin"), std::string("a\0b\0\n\0\0\1c\0d\0e\0\n\0\0\1", 18));
}

TEST_F(TokenizeTest, LeavesNothingWhereItFails) {
  const TextSource from{.path = write("text", "")};
  EXPECT_THROW(tokenize({.text = from, .prefix = path("data"), .tokenizer = {}, .training = {}}), DataError);
  EXPECT_EQ(names(), (std::vector<std::string>{"text"}));
}

}  // namespace
}  // namespace ropewalk
