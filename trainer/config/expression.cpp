#include "trainer/config/expression.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <vector>

namespace ropewalk {
namespace {

constexpr size_t kLongest = 500;  // bounds how deep a condition can be nested, and so the stack

enum class Op {
  kNumber,
  kLayer,
  kAdd,
  kSubtract,
  kMultiply,
  kModulo,
  kEqual,
  kUnequal,
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kIn,
  kNot,
  kAnd,
  kOr,
};

ExpressionError error_at(size_t at, const std::string& what) { return ExpressionError(fmt::format("{} at character {}", what, at + 1)); }

}  // namespace

// A node of the parsed condition. Truth values are 0 and 1 when evaluated, but are never numbers to the grammar.
struct Condition::Term {
  Op op = Op::kNumber;
  size_t at = 0;         // where its operator stands
  int64_t number = 0;    // of kNumber
  std::vector<Term> of;  // operands; for kIn the first is sought among the rest

  bool is_truth() const { return op >= Op::kEqual; }
};

namespace {

using Term = Condition::Term;

struct Token {
  std::string text;  // empty: the end
  size_t at = 0;
};

struct Operator {
  const char* word;
  Op op;
};

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) { advance(); }

  Term parse() {
    Term whole = disjunction();
    if (!token_.text.empty()) throw unexpected("an operator or the end");
    return truth(std::move(whole));
  }

 private:
  // Takes the next token: digits, a word, an operator of two characters, or one character.
  void advance() {
    while (next_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[next_]))) ++next_;
    const size_t begin = next_;
    const auto is_word = [&](size_t at) { return at < text_.size() && std::isalnum(static_cast<unsigned char>(text_[at])); };
    while (is_word(next_)) ++next_;
    if (next_ == begin && next_ < text_.size()) next_ += takes_two(begin) ? 2 : 1;
    token_ = {text_.substr(begin, next_ - begin), begin};
  }

  bool takes_two(size_t at) const {
    const std::string two = text_.substr(at, 2);
    return two == "==" || two == "!=" || two == "<=" || two == ">=";
  }

  bool take(const std::string& text) {
    if (token_.text != text) return false;
    advance();
    return true;
  }

  void expect(const std::string& text) {
    if (!take(text)) throw unexpected(text);
  }

  ExpressionError unexpected(const std::string& expected) const {
    return error_at(token_.at, fmt::format("expected {}, given {}", expected, token_.text.empty() ? "nothing" : token_.text));
  }

  static Term number(Term term) {
    if (term.is_truth()) throw error_at(term.at, "expected a number, given a condition");
    return term;
  }
  static Term truth(Term term) {
    if (!term.is_truth()) throw error_at(term.at, "expected a condition, given a number");
    return term;
  }

  // operand { operator operand }, grouped from the left.
  Term chain(Term (Parser::*operand)(), Term (*check)(Term), const std::vector<Operator>& operators) {
    Term left = (this->*operand)();
    for (;;) {
      const auto found = std::find_if(operators.begin(), operators.end(), [&](const Operator& o) { return token_.text == o.word; });
      if (found == operators.end()) return left;
      const size_t at = token_.at;
      advance();
      left = check(std::move(left));
      Term right = check((this->*operand)());
      left = Term{.op = found->op, .at = at, .of = {std::move(left), std::move(right)}};
    }
  }

  Term disjunction() { return chain(&Parser::conjunction, truth, {{"or", Op::kOr}}); }
  Term conjunction() { return chain(&Parser::negation, truth, {{"and", Op::kAnd}}); }
  Term sum() { return chain(&Parser::product, number, {{"+", Op::kAdd}, {"-", Op::kSubtract}}); }
  Term product() { return chain(&Parser::sign, number, {{"*", Op::kMultiply}, {"%", Op::kModulo}}); }

  Term negation() {
    const size_t at = token_.at;
    if (!take("not")) return comparison();
    return {.op = Op::kNot, .at = at, .of = {truth(negation())}};
  }

  Term comparison() {
    static const Operator kComparisons[] = {{"==", Op::kEqual},       {"!=", Op::kUnequal}, {"<", Op::kLess},
                                            {"<=", Op::kLessOrEqual}, {">", Op::kGreater},  {">=", Op::kGreaterOrEqual}};
    Term left = sum();
    const size_t at = token_.at;
    for (const Operator& comparison : kComparisons) {
      if (!take(comparison.word)) continue;
      left = number(std::move(left));
      return {.op = comparison.op, .at = at, .of = {std::move(left), number(sum())}};
    }
    if (take("in")) return membership(number(std::move(left)), at);
    if (!take("not")) return left;
    expect("in");
    return {.op = Op::kNot, .at = at, .of = {membership(number(std::move(left)), at)}};
  }

  Term membership(Term sought, size_t at) {
    Term in{.op = Op::kIn, .at = at, .of = {std::move(sought)}};
    expect("[");
    do in.of.push_back(number(sum()));
    while (take(","));
    expect("]");
    return in;
  }

  Term sign() {
    const size_t at = token_.at;
    if (!take("-")) return primary();
    return {.op = Op::kSubtract, .at = at, .of = {Term{.op = Op::kNumber, .at = at, .of = {}}, number(sign())}};
  }

  Term primary() {
    const Token token = token_;
    if (take("i")) return {.op = Op::kLayer, .at = token.at, .of = {}};
    if (take("(")) {
      Term inner = disjunction();
      expect(")");
      return inner;
    }
    if (token.text.empty() || !std::isdigit(static_cast<unsigned char>(token.text[0]))) throw unexpected("i, a number or (");
    Term constant{.op = Op::kNumber, .at = token.at, .of = {}};
    const char* const end = token.text.data() + token.text.size();
    const auto parsed = std::from_chars(token.text.data(), end, constant.number);
    if (parsed.ec != std::errc() || parsed.ptr != end) throw unexpected("an integer");
    advance();
    return constant;
  }

  const std::string& text_;
  size_t next_ = 0;
  Token token_;
};

int64_t arithmetic(const Term& term, int64_t a, int64_t b) {
  int64_t result = 0;
  const bool overflow = term.op == Op::kAdd        ? __builtin_add_overflow(a, b, &result)
                        : term.op == Op::kSubtract ? __builtin_sub_overflow(a, b, &result)
                                                   : __builtin_mul_overflow(a, b, &result);
  if (overflow) throw error_at(term.at, "too large a number");
  return result;
}

int64_t modulo(int64_t a, int64_t b, const Term& term) {
  if (b == 0) throw error_at(term.at, "a remainder by 0");
  if (b == -1) return 0;  // the smallest number has no opposite
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

int64_t evaluate(const Term& term, int64_t i) {
  const auto operand = [&](size_t k) { return evaluate(term.of[k], i); };
  switch (term.op) {
    case Op::kNumber: return term.number;
    case Op::kLayer: return i;
    case Op::kAdd:
    case Op::kSubtract:
    case Op::kMultiply: return arithmetic(term, operand(0), operand(1));
    case Op::kModulo: return modulo(operand(0), operand(1), term);
    case Op::kEqual: return operand(0) == operand(1);
    case Op::kUnequal: return operand(0) != operand(1);
    case Op::kLess: return operand(0) < operand(1);
    case Op::kLessOrEqual: return operand(0) <= operand(1);
    case Op::kGreater: return operand(0) > operand(1);
    case Op::kGreaterOrEqual: return operand(0) >= operand(1);
    case Op::kIn:
      return std::any_of(term.of.begin() + 1, term.of.end(), [&, sought = operand(0)](const Term& t) { return evaluate(t, i) == sought; });
    case Op::kNot: return !operand(0);
    case Op::kAnd: return operand(0) && operand(1);
    case Op::kOr: return operand(0) || operand(1);
  }
  return 0;
}

}  // namespace

Condition::Condition(const std::string& text) {
  if (text.size() > kLongest) throw ExpressionError(fmt::format("expected at most {} characters, given {}", kLongest, text.size()));
  term_ = std::make_shared<const Term>(Parser(text).parse());
}

bool Condition::holds(int64_t i) const { return evaluate(*term_, i) != 0; }

}  // namespace ropewalk
