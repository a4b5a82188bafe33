// A condition on the number i of a layer, as model.layout.rules writes it: "i % 8 == 4", "i >= 18 and i not in [20, 24]".
//
//   condition   or-terms; `not` binds tighter than `and`, which binds tighter than `or`
//   comparison  a == b, != < <= > >=, or a [not] in [b, ...]; not chained
//   number      integers, i, + - * %, signs, parentheses; % takes the sign of its right side, so that (i - 1) % 3 is 2 for i = 0
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace ropewalk {

// Says what is wrong, and at which character of the condition (counted from 1).
struct ExpressionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Condition {
 public:
  explicit Condition(const std::string& text);
  bool holds(int64_t i) const;

  struct Term;

 private:
  std::shared_ptr<const Term> term_;
};

}  // namespace ropewalk
