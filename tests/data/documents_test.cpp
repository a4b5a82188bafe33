#include "data/documents.h"

#include <gtest/gtest.h>

#include "tests/data/tiny_text.h"

namespace ropewalk {
namespace {

using testing::contents;
using testing::Ints;
using testing::shown;
using testing::tokenized;

TEST(Documents, HoldEachTextAsTokens) {
  const auto documents = tokenized({"ab", "", "cde"});
  EXPECT_EQ(documents->count(), 3);
  EXPECT_EQ(documents->tokens(), 5);
  EXPECT_EQ(shown(contents(*documents, 0)), "ab");
  EXPECT_EQ(documents->length(1), 0);
  Ints part(2);
  documents->read(2, 1, part);
  EXPECT_EQ(shown(part), "de");
}

TEST(Documents, DigestDependsOnTokensAndBorders) {
  EXPECT_EQ(tokenized({"ab", "c"})->digest(), tokenized({"ab", "c"})->digest());
  EXPECT_NE(tokenized({"ab", "c"})->digest(), tokenized({"ab", "d"})->digest());
  EXPECT_NE(tokenized({"ab", "c"})->digest(), tokenized({"a", "bc"})->digest());
  EXPECT_NE(tokenized({"ab", "c"})->digest(), tokenized({"c", "ab"})->digest());
}

}  // namespace
}  // namespace ropewalk
