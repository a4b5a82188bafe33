#include "trainer/config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

namespace ropewalk {
namespace {

constexpr int kDeepest = 32;        // an alias inside its own anchor never ends
constexpr int64_t kMost = 100'000;  // values: ten aliases of ten aliases of ... are many

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {}

  // `line` counts from 0.
  Where where(int line) const { return {file_, file_.empty() ? 0 : std::max(line, 0) + 1}; }

  // `line` is that of the key where there is one: a mapping itself begins on the line of its first key.
  Value read(const YAML::Node& node, const std::string& path, int line, int depth = 0) {
    Value value;
    value.where = where(line);
    if (++values_ > kMost) throw ConfigError(value.where, path, fmt::format("expected at most {} values in all", kMost));
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
  void add(Value& parent, const std::string& key, const YAML::Node& node, const std::string& path, int line, int depth) {
    Value& child = parent.add(key);
    child = read(node, dotted(path, key), line, depth + 1);
    child.key = key;
  }

  void read_map(const YAML::Node& node, const std::string& path, int depth, Value& value) {
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
  int64_t values_ = 0;
};

// Notes where the documents of a text begin.
class DocumentStarts : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { lines.push_back(mark.line); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  std::vector<int> lines;
};

// The line of a second document, or of what is behind the first and is none. (YAML::LoadAll takes a stray "," for documents without end.)
std::optional<int> second_document(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  while (starts.lines.size() < 2 && parser.HandleNextDocument(starts)) continue;
  return starts.lines.size() < 2 ? std::nullopt : std::optional(starts.lines[1]);
}

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
  Reader reader(file);
  try {
    if (const auto line = second_document(text)) throw ConfigError(reader.where(*line), path, "expected one YAML document, given several");
    return reader.read(YAML::Load(text), path, 0);
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
