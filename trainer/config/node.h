// One value of the configuration as its reader sees it: a YAML value, its dotted path, and its place for errors.
//
// Reading writes a second tree, the resolved one: each key asked for gets an entry, each value read is put there, defaults too. So when
// a reader is through, the resolved tree is the whole configuration, and a given key without an entry in it is an unknown key.
//
// Where a Description is given too, reading also describes: of each key what it may be, what it is when left out, and what it is about.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config/description.h"
#include "trainer/config/yaml.h"

namespace ropewalk {

// What a number may be, in words and in fact.
struct NumberRange {
  const char* words;
  bool (*holds)(double);
};
constexpr NumberRange kPositive{"a positive number", [](double x) { return x > 0; }};
constexpr NumberRange kNotNegative{"a number of 0 or more", [](double x) { return x >= 0; }};
constexpr NumberRange kBelowOne{"a number of at least 0 and below 1", [](double x) { return x >= 0 && x < 1; }};
constexpr NumberRange kUpToOne{"a number from 0 to 1", [](double x) { return x >= 0 && x <= 1; }};

template <class T>
using Choices = std::vector<std::pair<std::string, T>>;

// Getters throw ConfigError. Without `otherwise` the value is required. `given, read` tells a value that may be left out:
// `if (const Node lr = node["lr"]; lr.given()) ...`.
class Node {
 public:
  Node(const Value& given, Value& resolved, Description* description = nullptr)
      : given_(&given), resolved_(&resolved), description_(description) {}

  // The value under a key of this mapping; from now on the key is a known one. An absent or null mapping has no given keys.
  Node operator[](const std::string& key) const;
  std::vector<Node> entries() const;  // of a mapping whose keys are the user's names
  std::vector<Node> items() const;    // of a list; none where it is left out
  std::vector<Node> item_or_items() const;
  // The one of these keys that is given.
  std::string one_of(const std::vector<std::string>& keys) const;

  // For the reference: what the key means, on one line; `otherwise` says in words what leaving it out means.
  Node about(const std::string& words, const std::string& otherwise = "") const;
  // For the reference: this mapping where `key` is given, or has this value. Keys asked for through it belong to that alternative.
  Node as(const std::string& key, const std::string& value = "") const;

  // For the reference: described as the value at another path is, whose reader reads this one too.
  Node same_as(const std::string& path) const;

  bool given() const;
  bool is(Value::Type type) const { return given_ && given_->type == type; }
  bool says(const std::string& word) const { return is(Value::kScalar) && given_->scalar == word; }
  // Whether it says null, or says nothing and that is the default.
  bool is_null(bool by_default) const;

  int64_t integer(int64_t least, int64_t most, std::optional<int64_t> otherwise = {}) const;
  int64_t size(std::optional<int64_t> otherwise = {}) const;  // 1 ... 2^31 - 1
  double number(const NumberRange& range, std::optional<double> otherwise = {}) const;
  // As many as `otherwise` has.
  std::vector<double> numbers(const NumberRange& range, const std::vector<double>& otherwise) const;
  bool flag(std::optional<bool> otherwise = {}) const;
  std::string text(const std::optional<std::string>& otherwise = {}) const;  // not empty
  template <class T>
  T choice(const Choices<T>& choices, std::optional<T> otherwise = {}) const {
    std::vector<std::string> names;
    for (const auto& [name, value] : choices) names.push_back(name);
    const auto known = std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return otherwise && c.second == *otherwise; });
    note_choice(names, known == choices.end() ? "" : known->first);
    if (!given_ && otherwise) return put_choice(choices, *otherwise);
    return put_choice(choices, choices[chosen(names)].second);
  }

  const std::string& path() const { return path_; }
  std::string key() const { return path_.substr(path_.rfind('.') + 1); }
  Where where() const { return given_ ? given_->where : gap_.parent->where; }
  ConfigError error(const std::string& message) const { return {where(), path_, message}; }
  ConfigError expected(const std::string& what) const;  // "expected what, given ..."
  // Throws for a given key that was never asked for.
  void refuse_unknown_keys() const;

 private:
  // On the way to an absent value: the last mapping that is there, and the key that it lacks.
  struct Gap {
    const Value* parent = nullptr;
    std::string parent_path, key;
  };

  Node(const Value* given, Value& resolved, Description* description, std::string path, Gap gap)
      : given_(given), resolved_(&resolved), description_(description), path_(std::move(path)), gap_(std::move(gap)) {}

  Node child(const std::string& key, Description* description) const;
  // No `otherwise`: the value is required, unless somebody asked whether it is given.
  void note(const ValueForm& form, const std::optional<std::string>& otherwise) const;
  void note_choice(const std::vector<std::string>& names, const std::string& otherwise) const;
  const std::string& scalar(const std::string& what) const;
  void refuse_absent() const;
  size_t chosen(const std::vector<std::string>& names) const;
  void put(std::string scalar, bool quoted = false) const;
  template <class T>
  T put_choice(const Choices<T>& choices, T value) const {
    for (const auto& [name, candidate] : choices)
      if (candidate == value) put(name);
    return value;
  }

  const Value* given_;  // null: absent
  Value* resolved_;
  Description* description_;  // null: nobody asks for descriptions
  std::string path_;
  Gap gap_;
};

}  // namespace ropewalk
