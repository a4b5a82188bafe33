#include "data/sequence_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "data/error.h"
#include "tests/data/tiny_text.h"

namespace ropewalk {
namespace {

using ::testing::ElementsAre;
using testing::Ints;
using testing::shown;
using testing::tokenized;

SequenceIndex packed_index(const std::vector<std::string>& texts, uint64_t seed, int64_t seq_len) {
  return SequenceIndex(tokenized(texts), seed, seq_len, /*packed=*/true);
}

bool same(const Sequence& a, const Sequence& b) {
  return a.tokens == b.tokens && a.targets == b.targets && a.document_begins == b.document_begins;
}

// Targets of the first `count` rows, laid end to end.
std::string stream(const SequenceIndex& index, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += shown(index.at(i).targets);
  return text;
}

// The documents of one epoch, in the order of the stream. No text may hold '|'.
std::vector<std::string> split(const std::string& stream) {
  std::vector<std::string> documents(1);
  for (const char c : stream) {
    if (c == '|') {
      documents.emplace_back();
    } else {
      documents.back() += c;
    }
  }
  documents.pop_back();
  return documents;
}

TEST(SequenceIndex, EndOpensADocumentAsTokenAndClosesItAsTarget) {
  const Sequence row = packed_index({"abc"}, 1, 4).at(0);
  EXPECT_EQ(shown(row.tokens), "|abc");
  EXPECT_EQ(shown(row.targets), "abc|");
  EXPECT_THAT(row.document_begins, ElementsAre(0));
}

TEST(SequenceIndex, RowCutInADocumentGoesOnWithItsTokens) {
  const SequenceIndex index = packed_index({"abcd"}, 1, 3);  // the stream of targets is abcd|abcd|abcd|..
  EXPECT_EQ(shown(index.at(0).tokens), "|ab");
  EXPECT_EQ(shown(index.at(0).targets), "abc");
  EXPECT_THAT(index.at(0).document_begins, ElementsAre(0));
  EXPECT_EQ(shown(index.at(1).tokens), "cd|");
  EXPECT_EQ(shown(index.at(1).targets), "d|a");
  EXPECT_THAT(index.at(1).document_begins, ElementsAre(0, 2));
  EXPECT_EQ(shown(index.at(3).tokens), "d|a");  // opens with the last position of the second epoch's document
  EXPECT_EQ(shown(index.at(3).targets), "|ab");
  EXPECT_THAT(index.at(3).document_begins, ElementsAre(0, 1));
}

TEST(SequenceIndex, RowMaySpanManyEpochs) {
  const Sequence row = packed_index({"a"}, 1, 7).at(1);  // positions 7 to 13 of |a|a|a..
  EXPECT_EQ(shown(row.tokens), "a|a|a|a");
  EXPECT_EQ(shown(row.targets), "|a|a|a|");
  EXPECT_THAT(row.document_begins, ElementsAre(0, 1, 3, 5));
}

TEST(SequenceIndex, EveryTokenComesFromTheSameDocumentAsItsTarget) {
  const std::vector<std::string> texts = {"aAaAa", "bB", "cCcCcCcCc", "d", "eEe"};
  const SequenceIndex index = packed_index(texts, 3, 7);
  for (int64_t i = 0; i < 20; ++i) {
    const Sequence row = index.at(i);
    for (size_t p = 0; p < row.tokens.size(); ++p) {
      const bool opens = row.tokens[p] == 256, closes = row.targets[p] == 256;
      const bool begins = std::count(row.document_begins.begin(), row.document_begins.end(), p) > 0;
      EXPECT_EQ(begins, p == 0 || opens);
      EXPECT_TRUE(begins || row.tokens[p] == row.targets[p - 1]);
      EXPECT_TRUE(opens || closes || (row.tokens[p] ^ row.targets[p]) == ('a' ^ 'A'));  // the other case of the same letter
    }
  }
}

TEST(SequenceIndex, EpochHoldsEveryDocumentOnceInAnOrderOfItsOwn) {
  std::vector<std::string> texts;
  for (int k = 0; k < 39; ++k) texts.push_back(std::to_string(100 + k));  // 39 times 4 positions, 12 rows of 13
  const std::string text = stream(packed_index(texts, 5, 13), 36);
  std::vector<std::vector<std::string>> epochs;
  for (int e = 0; e < 3; ++e) epochs.push_back(split(text.substr(e * 156, 156)));
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  for (std::vector<std::string>& epoch : epochs) {
    EXPECT_NE(epoch, texts);
    std::sort(epoch.begin(), epoch.end());
    EXPECT_EQ(epoch, texts);
  }
}

TEST(SequenceIndex, RowDoesNotDependOnWhatWasAskedBefore) {
  const std::vector<std::string> texts = {"one", "two", "three", "four", "five"};
  const SequenceIndex asked = packed_index(texts, 7, 11);
  for (const int64_t i : {9, 0, 100, 1, 9, 3, 4, 2, 100, 0, 57}) {
    EXPECT_TRUE(same(asked.at(i), packed_index(texts, 7, 11).at(i))) << i;
  }
}

TEST(SequenceIndex, OrderDependsOnSeedAndText) {
  const auto row = [](const std::string& last_text, uint64_t seed) {
    return stream(packed_index({"0", "1", "2", "3", "4", "5", "6", "7", "8", last_text}, seed, 20), 1);
  };
  const std::string first = row("9", 1);
  EXPECT_NE(row("9", 2), first);
  std::string other = row("x", 1);
  std::replace(other.begin(), other.end(), 'x', '9');
  EXPECT_NE(other, first);
}

// A resumed run must see what it would have seen, also with a program built later: these values may never change.
TEST(SequenceIndex, OrderIsTheSameForEver) {
  EXPECT_EQ(stream(packed_index({"0", "1", "2", "3", "4", "5", "6", "7"}, 1, 16), 2), "1|7|6|3|5|0|2|4|1|0|3|2|5|4|7|6|");
}

TEST(SequenceIndex, EpochOfManyDocumentsHoldsEveryOneOnce) {
  std::vector<std::string> texts;
  for (int k = 0; k < 3000; ++k) texts.push_back(std::to_string(10'000 + k));  // 3000 times 6 positions, 20 rows of 900
  const SequenceIndex index = packed_index(texts, 5, 900);
  std::vector<std::string> epoch = split(stream(index, 20));
  EXPECT_NE(epoch, texts);
  std::sort(epoch.begin(), epoch.end());
  EXPECT_EQ(epoch, texts);
  const SequenceIndex other = packed_index(texts, 5, 900);
  EXPECT_TRUE(same(other.at(13), index.at(13)));
}

// Documents of which nothing is known but their tokens.
class WithoutEnd final : public Documents {
 public:
  explicit WithoutEnd(const std::vector<std::string>& texts) : documents_(tokenized(texts)) {}
  int64_t count() const override { return documents_->count(); }
  int64_t tokens() const override { return documents_->tokens(); }
  int64_t length(int64_t document) const override { return documents_->length(document); }
  void read(int64_t document, int64_t begin, std::span<int64_t> into) const override { documents_->read(document, begin, into); }
  uint64_t digest() const override { return 1; }
  std::optional<Token> end_of_document() const override { return std::nullopt; }

 private:
  std::unique_ptr<Documents> documents_;
};

TEST(SequenceIndex, PredictsWhatFollowsInADocumentWhereNoEndIsKnown) {
  const SequenceIndex index(std::make_unique<WithoutEnd>(std::vector<std::string>{"abc", "", "x", "de"}), 1, 3, /*packed=*/true);
  const Sequence row = index.at(0);  // both orders of abc and de are fine
  const bool abc_first = row.tokens[0] == 'a';
  EXPECT_EQ(shown(row.tokens), abc_first ? "abd" : "dab");
  EXPECT_EQ(shown(row.targets), abc_first ? "bce" : "ebc");
  EXPECT_THAT(row.document_begins, ElementsAre(0, abc_first ? 2 : 1));
}

TEST(SequenceIndex, RefusesDocumentsWithoutATokenToPredict) {
  EXPECT_THROW(SequenceIndex(std::make_unique<WithoutEnd>(std::vector<std::string>{"x", ""}), 1, 4, true), DataError);
  EXPECT_THROW(packed_index({}, 1, 4), DataError);
}

TEST(SequenceIndex, RowIsOneDocumentWhereNotPacked) {
  const std::vector<std::string> texts = {"one", "two", "three"};
  const SequenceIndex packed = packed_index(texts, 1, 12), unpacked(tokenized(texts), 1, 12, /*packed=*/false);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(unpacked.at(i).tokens, packed.at(i).tokens);
    EXPECT_EQ(unpacked.at(i).targets, packed.at(i).targets);
    EXPECT_GT(packed.at(i).document_begins.size(), 1u);
    EXPECT_THAT(unpacked.at(i).document_begins, ElementsAre(0));
  }
}

}  // namespace
}  // namespace ropewalk
