// A YAML text as a tree of values that remember where they were given. Behind this header is the only code that knows a YAML library.
#pragma once

#include <list>
#include <string>

#include "trainer/config/error.h"

namespace ropewalk {

struct Value {
  enum Type { kAbsent, kNull, kScalar, kList, kMap } type = kAbsent;
  std::string key;  // under which its parent holds it; in a list its index
  std::string scalar;
  bool quoted = false;        // then it is text, whatever it looks like
  std::list<Value> children;  // of a list or mapping, in the order given; a std::list, so that a child stays where it is
  Where where;

  const Value* find(const std::string& child_key) const;
  Value* find(const std::string& child_key);
  Value& add(const std::string& child_key);  // an absent child
};

inline std::string dotted(std::string path, const std::string& key) {
  if (!path.empty()) path += '.';
  return path += key;
}

// Throws ConfigError for what is not YAML, for keys given twice, and for keys that are not plain words. An empty `file` is the command
// line; `path` is where the value belongs, for errors.
Value parse_yaml(const std::string& text, const std::string& file, const std::string& path = "");
// Block style, lists of scalars on one line. Absent values are left out.
std::string print_yaml(const Value& value);
// The value as messages quote it: 3, "a text", [1, 2], a mapping.
std::string describe(const Value& value);

// Mappings merge key by key; anything else in `over` takes the place of what was there.
void merge(Value& base, const Value& over);
// Puts `value` at a dotted path ("optimizer.groups.0.lr"), making the mappings on the way that are not there yet.
void assign(Value& root, const std::string& path, Value value);

}  // namespace ropewalk
