#include <gtest/gtest.h>

#include "trainer/config/expression.h"

namespace ropewalk {
namespace {

// The layers of 0 ... 11 for which the condition holds: "0 2 4".
std::string layers_of(const std::string& text) {
  const Condition condition(text);
  std::string layers;
  for (int64_t i = 0; i < 12; ++i)
    if (condition.holds(i)) layers += (layers.empty() ? "" : " ") + std::to_string(i);
  return layers;
}

std::string mistake(const std::string& text) {
  try {
    layers_of(text);
  } catch (const ExpressionError& e) {
    return e.what();
  }
  return "no mistake";
}

TEST(Condition, Compares) {
  EXPECT_EQ(layers_of("i == 3"), "3");
  EXPECT_EQ(layers_of("i != 3 and i < 5"), "0 1 2 4");
  EXPECT_EQ(layers_of("i <= 2"), "0 1 2");
  EXPECT_EQ(layers_of("i > 9"), "10 11");
  EXPECT_EQ(layers_of("9<=i"), "9 10 11");
  EXPECT_EQ(layers_of("i in [9, 2 + 2, i % 7]"), "0 1 2 3 4 5 6 9");
  EXPECT_EQ(layers_of("i not in [0, 1, 2, 3, 4, 5, 6, 7]"), "8 9 10 11");
}

TEST(Condition, BindsAsUsual) {
  EXPECT_EQ(layers_of("i - 1 - 1 == 3"), "5");
  EXPECT_EQ(layers_of("2 + 3 * i == 11"), "3");
  EXPECT_EQ(layers_of("(2 + 3) * i == 10"), "2");
  EXPECT_EQ(layers_of("2 * i % 8 == 4"), "2 6 10");
  EXPECT_EQ(layers_of("i == 1 or i > 3 and i < 6"), "1 4 5");
  EXPECT_EQ(layers_of("(i == 1 or i > 3) and i < 6"), "1 4 5");
  EXPECT_EQ(layers_of("(i == 7 or i > 3) and i < 6"), "4 5");
  EXPECT_EQ(layers_of("not i > 3 and i > 1"), "2 3");
  EXPECT_EQ(layers_of("not (i > 3 and i > 1)"), "0 1 2 3");
  EXPECT_EQ(layers_of("not not i == 4"), "4");
  EXPECT_EQ(layers_of("-i == -4"), "4");
  EXPECT_EQ(layers_of("4 - -i == 6"), "2");
}

TEST(Condition, TakesRemaindersWithTheSignOfTheirRightSide) {
  EXPECT_EQ(layers_of("(i - 4) % 3 == 2"), "0 3 6 9");
  EXPECT_EQ(layers_of("i % -3 == -2"), "1 4 7 10");
  EXPECT_EQ(layers_of("i % -1 == 0 and i < 2"), "0 1");
}

TEST(Condition, LeavesTheRightSideAloneWhereTheLeftDecides) {
  EXPECT_EQ(layers_of("i > 0 and 6 % i == 0"), "1 2 3 6");
  EXPECT_EQ(layers_of("i == 0 or 6 % i == 0"), "0 1 2 3 6");
}

TEST(Condition, SaysWhereItIsWrong) {
  EXPECT_EQ(mistake(""), "expected i, a number or (, given nothing at character 1");
  EXPECT_EQ(mistake("i"), "expected a condition, given a number at character 1");
  EXPECT_EQ(mistake("i % 2"), "expected a condition, given a number at character 3");
  EXPECT_EQ(mistake("i = 2"), "expected an operator or the end, given = at character 3");
  EXPECT_EQ(mistake("i == 2 i"), "expected an operator or the end, given i at character 8");
  EXPECT_EQ(mistake("i =="), "expected i, a number or (, given nothing at character 5");
  EXPECT_EQ(mistake("j == 2"), "expected i, a number or (, given j at character 1");
  EXPECT_EQ(mistake("i == 2x"), "expected an integer, given 2x at character 6");
  EXPECT_EQ(mistake("i == 99999999999999999999"), "expected an integer, given 99999999999999999999 at character 6");
  EXPECT_EQ(mistake("i == (2"), "expected ), given nothing at character 8");
  EXPECT_EQ(mistake("i in 2"), "expected [, given 2 at character 6");
  EXPECT_EQ(mistake("i in []"), "expected i, a number or (, given ] at character 7");
  EXPECT_EQ(mistake("i in [1 2]"), "expected ], given 2 at character 9");
  EXPECT_EQ(mistake("i not [1]"), "expected in, given [ at character 7");
  EXPECT_EQ(mistake("i < 3 < 4"), "expected an operator or the end, given < at character 7");
  EXPECT_EQ(mistake("1 + (i < 3)"), "expected a number, given a condition at character 8");
  EXPECT_EQ(mistake("i and i < 3"), "expected a condition, given a number at character 1");
  EXPECT_EQ(mistake("i / 2 == 1"), "expected an operator or the end, given / at character 3");
  EXPECT_EQ(mistake("6 % i == 0"), "a remainder by 0 at character 3");
  EXPECT_EQ(mistake("i * 9223372036854775807 >= 0"), "too large a number at character 3");
  EXPECT_EQ(mistake(std::string(501, ' ')), "expected at most 500 characters, given 501");
  EXPECT_EQ(mistake(std::string(249, '(') + "i" + std::string(249, ')')), "expected a condition, given a number at character 250");
}

}  // namespace
}  // namespace ropewalk
