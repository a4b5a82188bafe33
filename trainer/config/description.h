// What the readers of the configuration say of each key while they read it. docs/config.md and configs/schema.json are printed from this.
//
// Reading describes only what it passes: a text whose mixer is mamba2 describes no key of attention. The reference comes from texts that
// between them take every way (trainer/config/reference.cpp).
#pragma once

#include <list>
#include <string>
#include <vector>

namespace ropewalk {

// One of the things that a value may be.
struct ValueForm {
  enum Type { kInteger, kNumber, kText, kChoice, kNull } type;
  std::string words;               // "a positive integer"
  std::vector<std::string> names;  // of a choice
  int64_t least = 0;               // of an integer

  bool operator==(const ValueForm&) const = default;
};

struct Description {
  std::string key;              // "*": keys that the user names; "[]": the items of a list
  std::string about;            // what it means
  std::string otherwise;        // the value when it is left out; empty: none
  std::string otherwise_words;  // the same where it is no fixed value
  bool required = false, optional = false;
  std::string same_as;  // path of the description that holds for this one
  std::vector<ValueForm> forms;
  std::list<Description> children;
  // Several sets of keys, told apart by one of these keys, or by the value of one: key "mixer", value "mamba2".
  std::vector<std::string> one_of;
  std::list<Description> alternatives;
  std::string value;  // of an alternative

  bool is_list() const { return !children.empty() && children.front().key == "[]"; }
  const Description* find(const std::string& child_key) const;
  Description& child(const std::string& child_key);
  Description& alternative(const std::string& alternative_key, const std::string& alternative_value);
  void may_be(const ValueForm& form);
};

}  // namespace ropewalk
