#include "text/output/tool_schemas.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "text/output/json_text.h"
#include "text/output/literal_reader.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaDepthMax = 16;  // Of references and alternatives: schemas may refer to themselves.

void AddTypeName(const Json& name, ValueTypes& types) {
  if (!name.is_string()) return;
  (name == "string" ? types.text : types.other) = true;
}

/// The object that `schema` refers to within `root`, or null.
const Json* Referred(const Json& schema, const Json& root) {
  if (!schema.is_object()) return nullptr;
  const auto found = schema.find("$ref");
  if (found == schema.end() || !found->is_string()) return &schema;
  std::string path = *found;
  if (!path.starts_with("#/")) return nullptr;
  const Json* at = &root;
  for (size_t begin = 2; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const auto next = at->is_object() ? at->find(path.substr(begin, end - begin)) : at->end();
    if (!at->is_object() || next == at->end()) return nullptr;
    at = &*next;
    begin = end + 1;
  }
  return at;
}

void AddTypes(const Json& schema, const Json& root, int depth, ValueTypes& types) {
  const Json* const found = depth < kSchemaDepthMax ? Referred(schema, root) : nullptr;
  if (found == nullptr || !found->is_object()) return;
  for (const auto& [key, value] : found->items()) {
    if (key == "$ref") AddTypes(*found, root, depth + 1, types);
    if (key == "type" && value.is_array()) {
      for (const Json& name : value) AddTypeName(name, types);
    } else if (key == "type") {
      AddTypeName(value, types);
    } else if (key == "const") {
      (value.is_string() ? types.text : types.other) = true;
    } else if (key == "enum" && value.is_array() && !found->contains("type")) {
      for (const Json& item : value) (item.is_string() ? types.text : types.other) = true;
    } else if ((key == "anyOf" || key == "oneOf" || key == "allOf") && value.is_array()) {
      for (const Json& item : value) AddTypes(item, root, depth + 1, types);
    } else if (key == "properties" || key == "items") {
      types.other = true;
    }
  }
}

}  // namespace

ToolSchemas ToolSchemas::FromJson(std::string_view tools) {
  ToolSchemas schemas;
  Json list;
  if (!ReadJson(tools, {.depth_max = 128}, &list).ok() || !list.is_array()) return schemas;
  for (const Json& tool : list) {
    const Json& function = tool.is_object() && tool.contains("function") ? tool["function"] : tool;
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) continue;
    auto& parameters = schemas.tools_[function["name"].get<std::string>()];
    const auto schema = function.find("parameters");
    if (schema == function.end() || !schema->is_object() || !schema->contains("properties")) continue;
    const Json& properties = (*schema)["properties"];
    if (!properties.is_object()) continue;
    for (const auto& [name, property] : properties.items()) {
      ValueTypes types;
      AddTypes(property, *schema, 0, types);
      parameters.push_back({name, types});
    }
  }
  return schemas;
}

ValueTypes ToolSchemas::types(std::string_view tool, std::string_view parameter) const {
  const auto found = tools_.find(tool);
  if (found == tools_.end()) return {};
  const auto at = std::ranges::find(found->second, parameter, &Parameter::name);
  return at == found->second.end() ? ValueTypes{} : at->types;
}

std::string_view ToolSchemas::parameter(std::string_view tool, size_t position) const {
  const auto found = tools_.find(tool);
  if (found == tools_.end() || position >= found->second.size()) return "";
  return found->second[position].name;
}

std::string ValueJson(std::string_view text, ValueTypes types) {
  if (types.text && !types.other) return JsonQuoted(text);
  const std::string_view trimmed = Trimmed(text);
  if (trimmed.empty()) return JsonQuoted(text);
  // A value that is quoted although it need not be stays text as it is, unless only JSON fits.
  if (IsJson(trimmed) && (trimmed.front() != '"' || !types.text)) return std::string(trimmed);
  const bool word = trimmed == "True" || trimmed == "False" || trimmed == "None";
  if (!word && trimmed.front() != '{' && trimmed.front() != '[') return JsonQuoted(text);
  LiteralReader reader;
  std::string json;
  for (size_t i = 0; i < trimmed.size(); ++i) {
    const ValueState state = reader.next(trimmed[i], json);
    if (state == ValueState::kMore) continue;
    return state == ValueState::kDone && i + 1 == trimmed.size() && IsJson(json) ? json : JsonQuoted(text);
  }
  // Only a word can end with the text.
  return reader.next(' ', json) == ValueState::kDoneBefore ? json : JsonQuoted(text);
}

}  // namespace shoal
