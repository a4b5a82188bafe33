#include "data/hold_out.h"

#include <gtest/gtest.h>

#include "data/error.h"

namespace ropewalk {
namespace {

using Texts = std::vector<std::string>;

Texts numbered(int count) {
  Texts texts;
  for (int k = 0; k < count; ++k) texts.push_back(std::to_string(k));
  return texts;
}

std::string error_of(const Texts& texts, double share) try {
  hold_out(texts, share);
  return "no error";
} catch (const Error& error) {
  return fmt::format("{}: {}", error.exit_code(), error.what());
}

TEST(HoldOut, TakesTheLastOfEveryPeriod) {
  const HoldOut parts = hold_out(numbered(9), 0.25);
  EXPECT_EQ(parts.train, (Texts{"0", "1", "2", "4", "5", "6", "8"}));
  EXPECT_EQ(parts.validation, (Texts{"3", "7"}));
}

TEST(HoldOut, RoundsThePeriod) { EXPECT_EQ(hold_out(numbered(7), 0.3).validation, (Texts{"2", "5"})); }

TEST(HoldOut, TakesOneOfJustEnoughDocuments) { EXPECT_EQ(hold_out({"0", "12345"}, 0.5).validation, (Texts{"12345"})); }

TEST(HoldOut, TakesTheLastBytesOfFewDocuments) {
  const HoldOut parts = hold_out({"0123", "456789ab", "cdefghij"}, 0.25);  // 5 of 20 bytes
  EXPECT_EQ(parts.train, (Texts{"0123", "456789ab", "cde"}));
  EXPECT_EQ(parts.validation, (Texts{"fghij"}));
}

TEST(HoldOut, TakesWholeDocumentsWhereTheCutFallsBetweenThem) {
  const HoldOut parts = hold_out({"01234567", "8", "9"}, 0.2);
  EXPECT_EQ(parts.train, (Texts{"01234567"}));
  EXPECT_EQ(parts.validation, (Texts{"8", "9"}));
}

TEST(HoldOut, TakesNothingForAShareOfZero) {
  const HoldOut parts = hold_out(numbered(3), 0);
  EXPECT_EQ(parts.train, numbered(3));
  EXPECT_TRUE(parts.validation.empty());
}

TEST(HoldOut, RefusesToLeaveNothing) {
  EXPECT_EQ(error_of({"a", "b", "c"}, 0.7),
            "3: data.validation: 0.7 of 3 documents (3 bytes) leaves nothing for training; change the share or give more text");
  EXPECT_EQ(error_of({"abc"}, 0.01),
            "3: data.validation: 0.01 of 1 documents (3 bytes) leaves nothing for validation; change the share or give more text");
  EXPECT_EQ(error_of({"abc"}, 1), "2: data.validation: expected a share in [0, 1), given 1");
}

}  // namespace
}  // namespace ropewalk
