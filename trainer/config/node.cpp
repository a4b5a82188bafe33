#include "trainer/config/node.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>

#include "trainer/config/words.h"

namespace ropewalk {
namespace {

template <class T>
bool parse(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// Shortest text that reads back as x. With a point in the mantissa: YAML 1.1 readers take 1e-08 for text.
std::string format_number(double x) {
  std::string text = fmt::format("{}", x);
  const size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

// Text that some YAML reader could take for something else is quoted.
bool needs_quotes(const std::string& text) {
  static const char* const kWords[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
  const auto safe = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '/'; };
  std::string lower = text;
  std::transform(text.begin(), text.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return !(std::isalpha(static_cast<unsigned char>(text[0])) || text[0] == '/' || text[0] == '_') ||
         !std::all_of(text.begin(), text.end(), safe) || std::find(std::begin(kWords), std::end(kWords), lower) != std::end(kWords);
}

std::vector<std::string> keys_of(const Value& mapping) {
  std::vector<std::string> keys;
  for (const Value& child : mapping.children) keys.push_back(child.key);
  return keys;
}

ConfigError unknown_key(const Value& child, const std::string& path, const std::string& hint) {
  return {child.where, path, "unknown key" + hint};
}

void refuse_unknown(const Value& given, const Value& resolved, const std::string& path) {
  for (const Value& child : given.children) {
    const Value* read = resolved.find(child.key);
    if (!read) throw unknown_key(child, dotted(path, child.key), suggestion(child.key, keys_of(resolved)));
    refuse_unknown(child, *read, dotted(path, child.key));
  }
}

}  // namespace

Node Node::operator[](const std::string& key) const { return child(key, description_ ? &description_->child(key) : nullptr); }

Node Node::child(const std::string& key, Description* description) const {
  if (given_ && given_->type != Value::kMap && given_->type != Value::kNull) throw expected("a mapping");
  resolved_->type = Value::kMap;
  Value* known = resolved_->find(key);
  Value& slot = known ? *known : resolved_->add(key);
  const Value* child = given_ ? given_->find(key) : nullptr;
  if (child) return {child, slot, description, dotted(path_, key), {}};
  return {nullptr, slot, description, dotted(path_, key), given_ ? Gap{given_, path_, key} : gap_};
}

Node Node::about(const std::string& words, const std::string& otherwise) const {
  if (description_) {
    description_->about = words;
    description_->otherwise_words = otherwise;
  }
  return *this;
}

Node Node::as(const std::string& key, const std::string& value) const {
  Node alternative = *this;
  if (description_) alternative.description_ = &description_->alternative(key, value);
  return alternative;
}

Node Node::same_as(const std::string& path) const {
  Node elsewhere = *this;
  if (description_) description_->same_as = path;
  elsewhere.description_ = nullptr;
  return elsewhere;
}

bool Node::given() const {
  if (description_) description_->optional = true;
  return given_ != nullptr;
}

std::vector<Node> Node::entries() const {
  if (description_) description_->required = true;
  refuse_absent();
  if (given_->type != Value::kMap) throw expected("a mapping");
  std::vector<Node> entries;
  Description* const any = description_ ? &description_->child("*") : nullptr;
  for (const Value& entry : given_->children) entries.push_back(child(entry.key, any));
  return entries;
}

std::vector<Node> Node::items() const {
  resolved_->type = Value::kList;
  Description* const any = description_ ? &description_->child("[]") : nullptr;
  if (!given_) return {};
  if (given_->type != Value::kList) throw expected("a list");
  std::vector<Node> items;
  for (const Value& item : given_->children) items.push_back(Node(&item, resolved_->add(item.key), any, dotted(path_, item.key), {}));
  return items;
}

std::vector<Node> Node::item_or_items() const {
  if (!given_ || given_->type != Value::kScalar) return items();
  resolved_->type = Value::kList;
  return {Node(given_, resolved_->add("0"), description_, path_, {})};
}

std::string Node::one_of(const std::vector<std::string>& keys) const {
  if (description_) {
    description_->one_of = keys;
    description_->required = true;
  }
  std::vector<std::string> found;
  for (const std::string& key : keys)
    if ((*this)[key].given()) found.push_back(key);
  if (found.size() == 1) return found[0];
  if (found.size() > 1)
    throw error(fmt::format("expected one of {}, given {} ({}) and {} ({})", join_or(keys), found[0], given_->find(found[0])->where.text(),
                            found[1], given_->find(found[1])->where.text()));
  refuse_absent();
  for (const Value& child : given_->children)
    if (const auto meant = nearest(child.key, keys)) throw unknown_key(child, dotted(path_, child.key), suggestion(child.key, keys));
  throw error(fmt::format("expected one of {}, given none", join_or(keys)));
}

bool Node::is_null(bool by_default) const {
  note({.type = ValueForm::kNull, .words = "null", .names = {}}, by_default ? "null" : "");
  const bool null = given_ ? given_->type == Value::kNull : by_default;
  if (null) resolved_->type = Value::kNull;
  return null;
}

int64_t Node::integer(int64_t least, int64_t most, std::optional<int64_t> otherwise) const {
  const std::string what = least == 1 ? "a positive integer" : fmt::format("an integer of {} or more", least);
  note({.type = ValueForm::kInteger, .words = what, .names = {}, .least = least},
       otherwise ? std::optional(std::to_string(*otherwise)) : std::nullopt);
  int64_t value = 0;
  if (!given_ && otherwise) {
    value = *otherwise;
  } else {
    if (!parse(scalar(what), value) || value < least) throw expected(what);
    if (value > most) throw expected(fmt::format("at most {}", most));
  }
  put(std::to_string(value));
  return value;
}

int64_t Node::size(std::optional<int64_t> otherwise) const { return integer(1, std::numeric_limits<int32_t>::max(), otherwise); }

double Node::number(const NumberRange& range, std::optional<double> otherwise) const {
  note({.type = ValueForm::kNumber, .words = range.words, .names = {}},
       otherwise ? std::optional(format_number(*otherwise)) : std::nullopt);
  double value = otherwise.value_or(0);
  if (given_ || !otherwise) {
    if (!parse(scalar(range.words), value) || !std::isfinite(value) || !range.holds(value)) throw expected(range.words);
  }
  put(format_number(value));
  return value;
}

std::vector<double> Node::numbers(const NumberRange& range, const std::vector<double>& otherwise) const {
  if (description_ && description_->otherwise.empty() && description_->otherwise_words.empty()) {
    std::vector<std::string> numbers(otherwise.size());
    std::transform(otherwise.begin(), otherwise.end(), numbers.begin(), format_number);
    description_->otherwise = "[" + join(numbers, ", ") + "]";
  }
  const std::vector<Node> given = items();
  if (given_ && given.size() != otherwise.size()) throw expected(fmt::format("{} numbers", otherwise.size()));
  std::vector<double> values;
  for (size_t i = 0; i < otherwise.size(); ++i)
    values.push_back(given_ ? given[i].number(range)
                            : Node(nullptr, resolved_->add(std::to_string(i)), nullptr, path_, gap_).number(range, otherwise[i]));
  return values;
}

bool Node::flag(std::optional<bool> otherwise) const {
  if (given_ && given_->quoted) throw expected("true or false");
  return choice<bool>({{"true", true}, {"false", false}}, otherwise);
}

std::string Node::text(const std::optional<std::string>& otherwise) const {
  note({.type = ValueForm::kText, .words = "a text", .names = {}}, otherwise);
  if (!given_) {
    if (!otherwise) refuse_absent();
    put(*otherwise, needs_quotes(*otherwise));
    return *otherwise;
  }
  if (given_->type != Value::kScalar || given_->scalar.empty()) throw expected("a text");
  put(given_->scalar, needs_quotes(given_->scalar));
  return given_->scalar;
}

ConfigError Node::expected(const std::string& what) const {
  return error(fmt::format("expected {}, given {}", what, given_ ? shortened(describe(*given_)) : "nothing"));
}

void Node::refuse_unknown_keys() const { refuse_unknown(*given_, *resolved_, path_); }

void Node::note(const ValueForm& form, const std::optional<std::string>& otherwise) const {
  if (!description_) return;
  description_->may_be(form);
  if (!otherwise) description_->required = true;
  if (otherwise && description_->otherwise_words.empty()) description_->otherwise = *otherwise;
}

void Node::note_choice(const std::vector<std::string>& names, const std::string& otherwise) const {
  note({.type = ValueForm::kChoice, .words = join_or(names), .names = names}, otherwise.empty() ? std::nullopt : std::optional(otherwise));
}

// A plain scalar: a number, a flag, a choice.
const std::string& Node::scalar(const std::string& what) const {
  refuse_absent();
  if (given_->type != Value::kScalar || given_->quoted) throw expected(what);
  return given_->scalar;
}

// Where a required value is missing, a slip of the hand in its key or in its section's is the likelier thing to say.
void Node::refuse_absent() const {
  if (given_) return;
  for (const Value& child : gap_.parent->children)
    if (nearest(child.key, {gap_.key})) throw unknown_key(child, dotted(gap_.parent_path, child.key), suggestion(child.key, {gap_.key}));
  throw error("required, not given");
}

size_t Node::chosen(const std::vector<std::string>& names) const {
  const std::string what = join_or(names) + (names.size() == 1 ? " (all that this build has)" : "");
  refuse_absent();
  const auto name = std::find(names.begin(), names.end(), given_->scalar);
  if (given_->type != Value::kScalar || name == names.end()) throw expected(what);
  return static_cast<size_t>(name - names.begin());
}

void Node::put(std::string scalar, bool quoted) const {
  resolved_->type = Value::kScalar;
  resolved_->scalar = std::move(scalar);
  resolved_->quoted = quoted;
}

}  // namespace ropewalk
