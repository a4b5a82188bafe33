// configs/schema.json. No key is required in it: a file's base may have given what the file itself leaves out.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/config/reference.h"

namespace ropewalk {
namespace {

using Json = nlohmann::ordered_json;

// 3, true and null are values, anything else is a text.
Json value_of(const std::string& text) {
  const Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(text) : value;
}

Json schema_of(const Description& d);

Json schema_of(const ValueForm& form) {
  switch (form.type) {
    case ValueForm::kInteger: return {{"type", "integer"}, {"minimum", form.least}};
    case ValueForm::kNumber: return {{"type", "number"}};
    case ValueForm::kText: return {{"type", "string"}};
    case ValueForm::kNull: return {{"type", "null"}};
    case ValueForm::kChoice: break;
  }
  if (form.names == std::vector<std::string>{"true", "false"}) return {{"type", "boolean"}};
  Json names = Json::array();
  for (const std::string& name : form.names) names.push_back(value_of(name));
  return {{"enum", names}};
}

void add_properties(const Description& d, Json& mapping) {
  for (const Description& child : d.children) {
    if (child.key == "*") {
      mapping["additionalProperties"] = schema_of(child);
    } else {
      mapping["properties"][child.key] = schema_of(child);
    }
  }
}

Json mapping_of(const Description& d) {
  Json mapping = {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
  add_properties(d, mapping);
  return mapping;
}

// The keys that all alternatives have, those of this one, and of the keys that exclude each other only `key`.
Json alternative_of(const Description& d, const std::string& key, const Description* own) {
  Json mapping = mapping_of(d);
  for (const std::string& other : d.one_of)
    if (other != key) mapping["properties"].erase(other);
  if (!own) return mapping;
  mapping["description"] = own->about;
  add_properties(*own, mapping);
  if (!own->value.empty()) {
    Json& selector = mapping["properties"][key];
    selector = {{"description", selector.value("description", "")}, {"const", value_of(own->value)}};
  }
  return mapping;
}

Json mappings_of(const Description& d) {
  Json all = Json::array();
  for (const Description& own : d.alternatives) all.push_back(alternative_of(d, own.key, &own));
  for (const std::string& key : d.one_of)
    if (std::none_of(d.alternatives.begin(), d.alternatives.end(), [&](const Description& a) { return a.key == key; }))
      all.push_back(alternative_of(d, key, nullptr));
  return all;
}

// "data.source" as JSON Schema names it.
std::string reference_to(const std::string& path) {
  std::string pointer = "#";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    pointer += "/properties/" + path.substr(begin, end - begin);
    begin = end + 1;
  }
  return pointer;
}

Json schema_of(const Description& d) {
  Json forms = Json::array();
  if (!d.same_as.empty()) forms.push_back({{"$ref", reference_to(d.same_as)}});
  for (const ValueForm& form : d.forms) forms.push_back(schema_of(form));
  if (d.is_list()) {
    forms.push_back({{"type", "array"}, {"items", schema_of(d.children.front())}});
  } else if (!d.alternatives.empty() || !d.one_of.empty()) {
    for (const Json& mapping : mappings_of(d)) forms.push_back(mapping);
  } else if (!d.children.empty()) {
    forms.push_back(mapping_of(d));
  }
  Json schema = Json::object();
  if (!d.about.empty()) schema["description"] = d.about;
  if (!d.otherwise.empty()) schema["default"] = value_of(d.otherwise);
  if (forms.size() == 1) {
    schema.update(forms[0]);
  } else {
    schema["anyOf"] = forms;
  }
  return schema;
}

Json base() {
  const Json file = {{"type", "string"}};
  return {{"description", "A file that this one overrides, or a list of files, each overriding those before it."},
          {"anyOf", {file, {{"type", "array"}, {"items", file}}}}};
}

}  // namespace

std::string config_schema(const Description& all) {
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", "ropewalk configuration"}};
  schema.update(mapping_of(all));
  schema["properties"]["base"] = base();
  return schema.dump(2) + "\n";
}

}  // namespace ropewalk
