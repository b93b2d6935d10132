#include "api/openai/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "absl/functional/function_ref.h"

namespace shoal {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};

Json TextOfParts(const Json& parts, const std::string& path, std::optional<ApiError>& error) {
  std::string joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string where = fmt::format("{}[{}]", path, i);
    if (!parts[i].is_object()) {
      error =
          ApiError{.message = fmt::format("'{}' must be an object, got {}", where, JsonTypeName(parts[i])),
                   .param = where,
                   .code = "invalid_type"};
      return nullptr;
    }
    FieldReader part(parts[i], where + ".", error);
    const std::string type = part.required_text("type");
    if (part.ok() && type != "text") {
      part.fail("type", fmt::format("'{}.type' is '{}', but this model takes only text parts", where, type),
                "unsupported_parameter");
    }
    const std::string text = part.required_text("text");
    part.refuse_others();
    if (!part.ok()) return nullptr;
    if (i > 0) joined += '\n';
    joined += text;
  }
  return joined;
}

Json NormalizedCall(const Json& call, const std::string& where, std::optional<ApiError>& error) {
  Json out;
  FieldReader fields(call, where + ".", error);
  if (const auto id = fields.text("id")) out["id"] = *id;
  const std::string type = fields.required_text("type");
  if (fields.ok() && type != "function") {
    fields.fail("type", fmt::format("'{}.type' must be 'function', got '{}'", where, type), "invalid_value");
  }
  out["type"] = "function";
  const Json* function = fields.find_object("function");
  if (function == nullptr) {
    fields.fail("function", fmt::format("'{}.function' is missing: expected an object", where),
                "missing_parameter");
    return out;
  }
  fields.refuse_others();
  FieldReader inner(*function, where + ".function.", error);
  out["function"]["name"] = inner.required_text("name");
  const std::string arguments = inner.required_text("arguments");
  inner.refuse_others();
  if (!inner.ok()) return out;
  auto parsed = ParseJson(arguments.empty() ? "{}" : arguments);
  if (!parsed.has_value() || !parsed->is_object()) {
    inner.fail("arguments",
               fmt::format("'{}.function.arguments' must be the text of a JSON object{}", where,
                           parsed.has_value() ? "" : ": " + parsed.error().message),
               "invalid_value");
    return out;
  }
  out["function"]["arguments"] = *std::move(parsed);
  return out;
}

/// `normalized` of every entry of `list`, all of them objects. path: of the list, for errors.
Json NormalizedEach(
    const Json& list, std::string_view path,
    absl::FunctionRef<Json(const Json&, const std::string&, std::optional<ApiError>&)> normalized,
    std::optional<ApiError>& error) {
  Json out = Json::array();
  for (size_t i = 0; i < list.size() && !error.has_value(); ++i) {
    const std::string where = fmt::format("{}[{}]", path, i);
    if (list[i].is_object()) {
      out.push_back(normalized(list[i], where, error));
    } else {
      error = ApiError{.message = fmt::format("'{}' must be an object, got {}", where, JsonTypeName(list[i])),
                       .param = where,
                       .code = "invalid_type"};
    }
  }
  return out;
}

void AddContent(FieldReader& fields, const std::string& role, bool has_calls, Json& out,
                std::optional<ApiError>& error) {
  const Json* content = fields.find("content");
  if (content == nullptr) {
    if (role == "assistant" && has_calls) {
      out["content"] = "";  // Templates concatenate it; None would print as "None" in some.
    } else {
      fields.fail("content",
                  fmt::format("'{}' is missing: expected a string or an array of text parts",
                              fields.path_of("content")),
                  "missing_parameter");
    }
  } else if (content->is_string()) {
    out["content"] = *content;
  } else if (content->is_array() && !content->empty()) {
    out["content"] = TextOfParts(*content, fields.path_of("content"), error);
  } else {
    fields.fail_type("content", "a string or a non-empty array of text parts", *content);
  }
}

Json NormalizedMessage(const Json& message, const std::string& where, std::optional<ApiError>& error) {
  Json out;
  FieldReader fields(message, where + ".", error);
  const std::string role = fields.required_text("role");
  if (fields.ok() && std::ranges::find(kRoles, role) == kRoles.end()) {
    fields.fail("role",
                fmt::format("'{}.role' must be one of {}, got '{}'", where, fmt::join(kRoles, ", "), role),
                "invalid_value");
  }
  // "developer" is OpenAI's newer name of "system"; templates know only the latter.
  out["role"] = role == "developer" ? "system" : role;
  const Json* calls = fields.find_array("tool_calls");
  if (calls != nullptr && role != "assistant") {
    fields.fail("tool_calls", fmt::format("'{}.tool_calls' belongs to assistant messages only", where),
                "invalid_value");
  }
  const bool has_calls = calls != nullptr && !calls->empty();
  AddContent(fields, role, has_calls, out, error);
  if (const auto name = fields.text("name")) out["name"] = *name;
  if (has_calls) out["tool_calls"] = NormalizedEach(*calls, where + ".tool_calls", NormalizedCall, error);
  if (const auto id = fields.text("tool_call_id")) {
    out["tool_call_id"] = *id;
    if (role != "tool") {
      fields.fail("tool_call_id", fmt::format("'{}.tool_call_id' belongs to tool messages only", where),
                  "invalid_value");
    }
  }
  for (const char* name : {"refusal", "audio", "function_call"}) fields.only(name, {});
  fields.only("annotations", {Json::array()});
  fields.refuse_others();
  return out;
}

Json NormalizedTool(const Json& tool, const std::string& where, std::optional<ApiError>& error) {
  Json out;
  FieldReader fields(tool, where + ".", error);
  const std::string type = fields.required_text("type");
  if (fields.ok() && type != "function") {
    fields.fail("type", fmt::format("'{}.type' must be 'function', got '{}'", where, type),
                "unsupported_parameter");
  }
  out["type"] = type;
  const Json* function = fields.find_object("function");
  if (function == nullptr) {
    fields.fail("function", fmt::format("'{}.function' is missing: expected an object", where),
                "missing_parameter");
    return out;
  }
  fields.refuse_others();
  FieldReader inner(*function, where + ".function.", error);
  const std::string name = inner.required_text("name");
  inner.text("description");
  inner.find_object("parameters");
  inner.only("strict", {false});
  inner.refuse_others();
  out["function"] = *function;
  out["function"].erase("strict");
  return out;
}

}  // namespace

Json NormalizedMessages(const Json& messages, std::optional<ApiError>& error) {
  return NormalizedEach(messages, "messages", NormalizedMessage, error);
}

Json NormalizedTools(const Json& tools, std::optional<ApiError>& error) {
  return NormalizedEach(tools, "tools", NormalizedTool, error);
}

}  // namespace shoal
