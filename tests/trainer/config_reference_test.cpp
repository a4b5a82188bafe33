#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "trainer/config/reference.h"
#include "trainer/config/yaml.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kSource = ROPEWALK_SOURCE;

std::string read(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  EXPECT_TRUE(stream) << file;
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(ConfigReference, IsWhatTheReadersSay) {
  const Description all = describe_all_keys();
  const char* const how = "print it again: build/release/config_reference";
  EXPECT_EQ(read(kSource + "/docs/config.md"), config_markdown(all)) << how << " > docs/config.md";
  EXPECT_EQ(read(kSource + "/configs/schema.json"), config_schema(all)) << how << " --schema > configs/schema.json";
}

json to_json(const Value& value) {
  if (value.type == Value::kList || value.type == Value::kMap) {
    json all = value.type == Value::kList ? json::array() : json::object();
    for (const Value& child : value.children) {
      if (value.type == Value::kList) {
        all.push_back(to_json(child));
      } else {
        all[child.key] = to_json(child);
      }
    }
    return all;
  }
  const json scalar = value.quoted ? json(value.scalar) : json::parse(value.type == Value::kNull ? "null" : value.scalar, nullptr, false);
  return scalar.is_discarded() ? json(value.scalar) : scalar;
}

bool has_type(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  EXPECT_EQ(type, "null");
  return value.is_null();
}

const json& root() {
  static const json schema = json::parse(read(kSource + "/configs/schema.json"));
  return schema;
}

// The words of JSON Schema that our schema uses.
bool valid(const json& value, const json& schema);

bool valid_members(const json& value, const json& schema) {
  for (const auto& [key, member] : value.items()) {
    if (schema["properties"].contains(key)) {
      if (!valid(member, schema["properties"][key])) return false;
    } else if (schema["additionalProperties"] == false || !valid(member, schema["additionalProperties"])) {
      return false;
    }
  }
  return true;
}

bool valid(const json& value, const json& given) {
  const json& schema = given.contains("$ref") ? root().at(json::json_pointer(given["$ref"].get<std::string>().substr(1))) : given;
  const auto fits = [&](const json& one) { return valid(value, one); };
  if (schema.contains("anyOf")) return std::any_of(schema["anyOf"].begin(), schema["anyOf"].end(), fits);
  if (schema.contains("const")) return value == schema["const"];
  if (schema.contains("enum")) return std::find(schema["enum"].begin(), schema["enum"].end(), value) != schema["enum"].end();
  if (!has_type(value, schema["type"])) return false;
  if (value.is_object()) return valid_members(value, schema);
  if (value.is_array()) return std::all_of(value.begin(), value.end(), [&](const json& item) { return valid(item, schema["items"]); });
  return !schema.contains("minimum") || value >= schema["minimum"];
}

TEST(ConfigSchema, TakesEveryFileOfConfigs) {
  for (const auto& file : fs::recursive_directory_iterator(kSource + "/configs")) {
    if (file.path().extension() != ".yaml") continue;
    const json config = to_json(parse_yaml(read(file.path().string()), file.path().string()));
    EXPECT_TRUE(valid(config, root())) << file.path();
  }
}

TEST(ConfigSchema, RefusesWhatTheProgramRefuses) {
  const auto takes = [](const std::string& text) { return valid(to_json(parse_yaml(text, "text")), root()); };
  EXPECT_TRUE(takes("model: {d_model: 64, blocks: {M: {mixer: mamba2, heads: 8}}, layout: {pattern: M}}"));
  EXPECT_TRUE(takes("base: [a.yaml, b.yaml]\nmodel: {blocks: {M: {heads: 8}}}"));
  EXPECT_FALSE(takes("model: {dmodel: 64}"));
  EXPECT_FALSE(takes("model: {d_model: 0}"));
  EXPECT_FALSE(takes("model: {d_model: wide}"));
  EXPECT_FALSE(takes("model: {blocks: {M: {mixer: mamba2, kv_heads: 8}}}"));
  EXPECT_FALSE(takes("model: {blocks: {M: {mixer: mamba9}}}"));
  EXPECT_FALSE(takes("model: {blocks: {F: {ffn: mlp, chunk: 8}}}"));
  EXPECT_FALSE(takes("model: {layout: {pattern: M, ratio: \"1:1\"}}"));
  EXPECT_FALSE(takes("model: {layout: {ratio: \"1:1\", of: M}}"));
  EXPECT_FALSE(takes("optimizer: {groups: [{name: a, match: {kind: mamba}}]}"));
  EXPECT_FALSE(takes("train: {clip: large}"));
  EXPECT_FALSE(takes("kernels: {}"));
}

}  // namespace
}  // namespace ropewalk
