#include "data/validation_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/tiny_text.h"

namespace ropewalk {
namespace {

using ::testing::ElementsAre;
using testing::shown;
using testing::tokenized;

TEST(ValidationRows, AreTheDocumentsInOrderAndFillTheLastRow) {
  const ValidationRows rows(tokenized({"ab", "c", "d"}), 4, /*packed=*/true);
  ASSERT_EQ(rows.count(), 2);
  EXPECT_EQ(shown(rows.at(0).tokens), "|ab|");
  EXPECT_EQ(shown(rows.at(0).targets), "ab|c");
  EXPECT_THAT(rows.at(0).document_begins, ElementsAre(0, 3));
  EXPECT_EQ(shown(rows.at(1).tokens), "c|d|");
  EXPECT_EQ(shown(rows.at(1).targets), "|d|.");
  EXPECT_THAT(rows.at(1).document_begins, ElementsAre(0, 1, 3));
}

TEST(ValidationRows, NeedNoFillingWhereTheTextEndsWithARow) {
  const ValidationRows rows(tokenized({"ab", "cd"}), 3, /*packed=*/true);
  ASSERT_EQ(rows.count(), 2);
  EXPECT_EQ(shown(rows.at(1).targets), "cd|");
  EXPECT_THAT(rows.at(1).document_begins, ElementsAre(0));
}

TEST(ValidationRows, ScoreEveryByteAndEveryEndOnce) {
  const std::vector<std::string> texts = {"The first", "2nd", "and a longer, third document", "x"};
  for (const int64_t seq_len : {1, 2, 5, 16, 1000}) {
    const ValidationRows rows(tokenized(texts), seq_len, /*packed=*/true);
    std::string scored;
    for (int64_t i = 0; i < rows.count(); ++i) {
      EXPECT_EQ(std::ssize(rows.at(i).tokens), seq_len);
      EXPECT_EQ(std::ssize(rows.at(i).targets), seq_len);
      for (const char c : shown(rows.at(i).targets)) {
        if (c != '.') scored += c;
      }
    }
    EXPECT_EQ(scored, "The first|2nd|and a longer, third document|x|");
  }
}

TEST(ValidationRows, AreOneDocumentEachWhereNotPacked) {
  const ValidationRows rows(tokenized({"ab", "c", "d"}), 4, /*packed=*/false);
  EXPECT_THAT(rows.at(0).document_begins, ElementsAre(0));
  EXPECT_THAT(rows.at(1).document_begins, ElementsAre(0));
  EXPECT_EQ(shown(rows.at(1).targets), "|d|.");
}

TEST(ValidationRows, AreNoneWhereNothingIsHeldOut) { EXPECT_EQ(ValidationRows(tokenized({}), 4, true).count(), 0); }

}  // namespace
}  // namespace ropewalk
