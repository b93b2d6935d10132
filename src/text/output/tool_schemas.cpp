#include "text/output/tool_schemas.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/functional/function_ref.h"
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
  const std::string path = *found;
  if (path == "#") return &root;
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

/// Calls `visit` with each object that says what a value of `schema` is: itself, what it refers to, its alternatives.
void ForEachPart(const Json& schema, const Json& root, int depth,
                 absl::FunctionRef<void(const Json&)> visit) {
  const Json* const found = depth < kSchemaDepthMax ? Referred(schema, root) : nullptr;
  if (found == nullptr || !found->is_object()) return;
  if (found->contains("$ref")) return ForEachPart(*found, root, depth + 1, visit);
  visit(*found);
  for (const char* key : {"anyOf", "oneOf", "allOf"}) {
    const auto list = found->find(key);
    if (list == found->end() || !list->is_array()) continue;
    for (const Json& item : *list) ForEachPart(item, root, depth + 1, visit);
  }
}

void AddTypes(const Json& part, ValueTypes& types) {
  for (const auto& [key, value] : part.items()) {
    if (key == "type" && value.is_array()) {
      for (const Json& name : value) AddTypeName(name, types);
    } else if (key == "type") {
      AddTypeName(value, types);
    } else if (key == "const") {
      (value.is_string() ? types.text : types.other) = true;
    } else if (key == "enum" && value.is_array() && !part.contains("type")) {
      for (const Json& item : value) (item.is_string() ? types.text : types.other) = true;
    } else if (key == "properties" || key == "items") {
      types.other = true;
    }
  }
}

bool NamesType(const Json& part, std::string_view type) {
  const auto found = part.find("type");
  if (found == part.end()) return false;
  return *found == type ||
         (found->is_array() && std::ranges::any_of(*found, [&](const Json& one) { return one == type; }));
}

}  // namespace

// ---- SchemaNode ----

ValueTypes SchemaNode::types() const {
  ValueTypes types;
  if (schema_ == nullptr) return types;
  ForEachPart(*schema_, *root_, 0, [&](const Json& part) { AddTypes(part, types); });
  return types;
}

bool SchemaNode::may_be(std::string_view type, std::string_view keyword) const {
  const ValueTypes known = types();
  if (!known.text && !known.other) return true;
  bool may_be = false;
  ForEachPart(*schema_, *root_, 0, [&](const Json& part) {
    may_be |= NamesType(part, type) || part.contains(std::string(keyword));
  });
  return may_be;
}

SchemaNode SchemaNode::property(std::string_view name) const {
  if (schema_ == nullptr) return {};
  const Json* named = nullptr;
  const Json* additional = nullptr;
  ForEachPart(*schema_, *root_, 0, [&](const Json& part) {
    const auto properties = part.find("properties");
    if (named == nullptr && properties != part.end() && properties->is_object()) {
      const auto found = properties->find(std::string(name));
      if (found != properties->end()) named = &*found;
    }
    const auto others = part.find("additionalProperties");
    if (additional == nullptr && others != part.end() && others->is_object()) additional = &*others;
  });
  return {named != nullptr ? named : additional, root_};
}

SchemaNode SchemaNode::items() const {
  if (schema_ == nullptr) return {};
  const Json* items = nullptr;
  ForEachPart(*schema_, *root_, 0, [&](const Json& part) {
    const auto found = part.find("items");
    if (items == nullptr && found != part.end() && found->is_object()) items = &*found;
  });
  return {items, root_};
}

// ---- ToolSchemas ----

ToolSchemas ToolSchemas::FromJson(std::string_view tools) {
  ToolSchemas schemas;
  Json list;
  if (!ReadJson(tools, {.depth_max = 128}, &list).ok() || !list.is_array()) return schemas;
  for (const Json& tool : list) {
    const Json& function = tool.is_object() && tool.contains("function") ? tool["function"] : tool;
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) continue;
    const auto schema = function.find("parameters");
    const bool described = schema != function.end() && schema->is_object();
    schemas.tools_[function["name"].get<std::string>()] =
        std::make_shared<const Json>(described ? *schema : Json::object());
  }
  return schemas;
}

SchemaNode ToolSchemas::parameters(std::string_view tool) const {
  const auto found = tools_.find(tool);
  return found == tools_.end() ? SchemaNode() : SchemaNode(found->second.get(), found->second.get());
}

std::string ToolSchemas::parameter(std::string_view tool, size_t position) const {
  const auto found = tools_.find(tool);
  if (found == tools_.end()) return "";
  const auto properties = found->second->find("properties");
  if (properties == found->second->end() || !properties->is_object() || position >= properties->size())
    return "";
  return std::next(properties->begin(), static_cast<std::ptrdiff_t>(position)).key();
}

namespace {

/// A number of JSON, which may be too large for a machine's.
bool IsNumber(std::string_view text) {
  const size_t exponent = text.find_first_of("eE");
  if (exponent == std::string_view::npos || !IsJson(text.substr(0, exponent))) return false;
  std::string_view digits = text.substr(exponent + 1);
  if (digits.starts_with('+') || digits.starts_with('-')) digits.remove_prefix(1);
  return !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos &&
         text.front() != '"' && text.front() != '[' && text.front() != '{';
}

}  // namespace

std::string ValueJson(std::string_view text, ValueTypes types) {
  if (types.text && !types.other) return JsonQuoted(text);
  const std::string_view trimmed = Trimmed(text);
  if (trimmed.empty()) return JsonQuoted(text);
  // A value that is quoted although it need not be stays text as it is, unless only JSON fits.
  if (IsNumber(trimmed) || (IsJson(trimmed) && (trimmed.front() != '"' || !types.text)))
    return std::string(trimmed);
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
