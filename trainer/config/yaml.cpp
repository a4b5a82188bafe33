#include "trainer/config/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <utility>

namespace ropewalk {
namespace {

constexpr int kDeepest = 32;  // an alias inside its own anchor never ends

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {}

  // `line` counts from 0.
  Where where(int line) const { return {file_, file_.empty() ? 0 : std::max(line, 0) + 1}; }

  // `line` is that of the key where there is one: a mapping itself begins on the line of its first key.
  Value read(const YAML::Node& node, const std::string& path, int line, int depth = 0) const {
    Value value;
    value.where = where(line);
    if (depth > kDeepest) throw ConfigError(value.where, path, "nested too deeply");
    if (node.IsMap()) {
      read_map(node, path, depth, value);
    } else if (node.IsSequence()) {
      value.type = Value::kList;
      for (const YAML::Node& item : node) add(value, std::to_string(value.children.size()), item, path, item.Mark().line, depth);
    } else if (node.IsScalar()) {
      value.type = Value::kScalar;
      value.scalar = node.Scalar();
      value.quoted = node.Tag() == "!";
    } else {
      value.type = Value::kNull;
    }
    return value;
  }

 private:
  void add(Value& parent, const std::string& key, const YAML::Node& node, const std::string& path, int line, int depth) const {
    Value& child = parent.add(key);
    child = read(node, dotted(path, key), line, depth + 1);
    child.key = key;
  }

  void read_map(const YAML::Node& node, const std::string& path, int depth, Value& value) const {
    value.type = Value::kMap;
    for (const auto& entry : node) {
      const int line = entry.first.Mark().line;
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "", child_path = dotted(path, key);
      if (key.empty() || key.find('.') != std::string::npos)
        throw ConfigError(where(line), path, "expected keys that are words without dots");
      if (const Value* first = value.find(key))
        throw ConfigError(where(line), child_path, fmt::format("given twice ({})", first->where.seen_from(where(line))));
      add(value, key, entry.second, path, line, depth);
    }
  }

  std::string file_;
};

bool is_scalar(const Value& value) { return value.type == Value::kScalar || value.type == Value::kNull; }

void emit(YAML::Emitter& out, const Value& value) {
  switch (value.type) {
    case Value::kAbsent:
    case Value::kNull: out << YAML::Null; break;
    case Value::kScalar:
      if (value.quoted) out << YAML::DoubleQuoted;
      out << value.scalar;
      break;
    case Value::kList:
      if (std::all_of(value.children.begin(), value.children.end(), is_scalar)) out << YAML::Flow;
      out << YAML::BeginSeq;
      for (const Value& item : value.children) emit(out, item);
      out << YAML::EndSeq;
      break;
    case Value::kMap:
      out << YAML::BeginMap;
      for (const Value& child : value.children) {
        if (child.type == Value::kAbsent) continue;
        out << YAML::Key << child.key << YAML::Value;
        emit(out, child);
      }
      out << YAML::EndMap;
  }
}

Value& child_at(Value& parent, const std::string& key, const std::string& path, const Where& where) {
  if (Value* child = parent.find(key)) return *child;
  if (parent.type == Value::kList)
    throw ConfigError(where, path, fmt::format("{} is not an index of a list of {}", key, parent.children.size()));
  if (parent.type == Value::kScalar)
    throw ConfigError(where, path, fmt::format("{} cannot hold {} ({})", parent.scalar, key, parent.where.text()));
  parent.type = Value::kMap;
  Value& child = parent.add(key);
  child.where = where;
  return child;
}

}  // namespace

const Value* Value::find(const std::string& child_key) const {
  const auto child = std::find_if(children.begin(), children.end(), [&](const Value& c) { return c.key == child_key; });
  return child == children.end() ? nullptr : &*child;
}

Value* Value::find(const std::string& child_key) { return const_cast<Value*>(std::as_const(*this).find(child_key)); }

Value& Value::add(const std::string& child_key) {
  Value& child = children.emplace_back();
  child.key = child_key;
  return child;
}

Value parse_yaml(const std::string& text, const std::string& file, const std::string& path) {
  const Reader reader(file);
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) throw ConfigError(reader.where(documents[1].Mark().line), path, "expected one YAML document, given several");
    return reader.read(documents.empty() ? YAML::Node() : documents[0], path, 0);
  } catch (const YAML::Exception& e) {
    throw ConfigError(reader.where(e.mark.line), path, e.msg);
  }
}

std::string print_yaml(const Value& value) {
  YAML::Emitter out;
  out.SetNullFormat(YAML::LowerNull);
  emit(out, value);
  return std::string(out.c_str()) + "\n";
}

std::string describe(const Value& value) {
  switch (value.type) {
    case Value::kAbsent: return "nothing";
    case Value::kNull: return "null";
    case Value::kScalar: return value.quoted ? '"' + value.scalar + '"' : value.scalar;
    case Value::kMap: return "a mapping";
    case Value::kList: break;
  }
  std::string items;
  for (const Value& item : value.children) items += (items.empty() ? "" : ", ") + describe(item);
  return "[" + items + "]";
}

void merge(Value& base, const Value& over) {
  if (base.type != Value::kMap || over.type != Value::kMap) {
    base = over;
    return;
  }
  base.where = over.where;
  for (const Value& child : over.children) {
    if (Value* below = base.find(child.key)) {
      merge(*below, child);
    } else {
      base.children.push_back(child);
    }
  }
}

void assign(Value& root, const std::string& path, Value value) {
  Value* at = &root;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    at = &child_at(*at, path.substr(begin, end - begin), path, value.where);
    begin = end + 1;
  }
  value.key = at->key;
  *at = std::move(value);
}

}  // namespace ropewalk
