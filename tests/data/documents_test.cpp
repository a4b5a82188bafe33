#include "data/documents.h"

#include <gtest/gtest.h>

#include "tests/data/tiny_text.h"

namespace ropewalk {
namespace {

using testing::tokenized;

TEST(Documents, HoldEachTextAsTokens) {
  const Documents documents = tokenized({"ab", "", "c"});
  EXPECT_EQ(documents.count(), 3);
  EXPECT_EQ(documents.tokens(), 3);
  EXPECT_EQ(ByteTokenizer().decode(documents[0]), "ab");
  EXPECT_EQ(documents[1].size(), 0u);
  EXPECT_EQ(ByteTokenizer().decode(documents[2]), "c");
}

TEST(Documents, DigestDependsOnTokensAndBorders) {
  EXPECT_EQ(tokenized({"ab", "c"}).digest(), tokenized({"ab", "c"}).digest());
  EXPECT_NE(tokenized({"ab", "c"}).digest(), tokenized({"ab", "d"}).digest());
  EXPECT_NE(tokenized({"ab", "c"}).digest(), tokenized({"a", "bc"}).digest());
  EXPECT_NE(tokenized({"ab", "c"}).digest(), tokenized({"c", "ab"}).digest());
}

}  // namespace
}  // namespace ropewalk
