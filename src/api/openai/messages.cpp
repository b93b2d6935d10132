#include "api/openai/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace shoal {
namespace {

constexpr std::array<std::string_view, 6> kRoles = {"system",    "developer", "user",
                                                    "assistant", "tool",      "function"};
/// The types of parts that are text, and the key that has it.
constexpr std::array<std::pair<std::string_view, const char*>, 4> kTextParts = {
    {{"text", "text"}, {"input_text", "text"}, {"output_text", "text"}, {"refusal", "refusal"}}};
/// Keys of a message that may hold its reasoning.
constexpr std::array kReasoningKeys = {"reasoning_content", "reasoning", "thinking"};
/// Keys of a tool or its function that are hints to other servers.
constexpr std::array kToolHints = {"strict", "cache_control", "defer_loading", "eager_input_streaming"};

std::string TextOf(const Json& value) { return value.is_string() ? value.get<std::string>() : ""; }

/// What a list of parts says.
struct PartsText {
  std::string content;
  std::string reasoning;
};

void AddLine(std::string& text, bool& begun, const std::string& line) {
  if (begun) text += '\n';
  begun = true;
  text += line;
}

PartsText TextOfParts(const Json& parts, const std::string& path, std::optional<ApiError>& error) {
  PartsText out;
  bool content_begun = false, reasoning_begun = false;
  for (size_t i = 0; i < parts.size() && !error.has_value(); ++i) {
    const std::string where = fmt::format("{}[{}]", path, i);
    if (parts[i].is_string()) {
      AddLine(out.content, content_begun, parts[i].get<std::string>());
      continue;
    }
    if (!parts[i].is_object()) {
      error = WrongType(where, "an object", parts[i]);
      break;
    }
    FieldReader part(parts[i], where + ".", error);
    const std::string type = part.text("type").value_or("text");
    const auto known = std::ranges::find(kTextParts, type, &std::pair<std::string_view, const char*>::first);
    if (type == "thinking" || type == "reasoning") {
      const Json* thought = part.find(type == "thinking" ? "thinking" : "text");
      if (thought != nullptr) AddLine(out.reasoning, reasoning_begun, TextOf(*thought));
    } else if (known != kTextParts.end()) {
      AddLine(out.content, content_begun, part.required_text(known->second));
    } else if (part.ok()) {
      part.fail("type", fmt::format("'{}.type' is '{}', but this model takes only text parts", where, type),
                "unsupported_parameter");
    }
  }
  return out;
}

/// Arguments of a replayed call: an object where they are one, else their text.
Json NormalizedArguments(const Json& arguments, bool& broken) {
  if (arguments.is_null()) return Json::object();
  if (arguments.is_object()) return arguments;
  if (!arguments.is_string()) {
    broken = true;
    return DumpJson(arguments);
  }
  const auto& text = arguments.get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return Json::object();
  auto parsed = ParseJson(text);
  if (parsed.has_value() && parsed->is_object()) return *std::move(parsed);
  broken = true;
  return text;
}

/// The function that comes closest to a call of another server's own kind: {"type": "custom", "custom": {"name",
/// "input"}}, {"type": "local_shell_call", "action": {...}}.
Json CallOfOtherType(const Json& call, const std::string& type) {
  Json function = {{"name", type}, {"arguments", Json::object()}};
  for (const auto& [key, value] : call.items()) {
    if (key == "id" || key == "type" || key == "index") continue;
    if (key != type || !value.is_object()) {
      function["arguments"][key] = value;
      continue;
    }
    for (const auto& [inner, what] : value.items()) {
      if (inner == "name" && what.is_string()) {
        function["name"] = what;
      } else {
        function["arguments"][inner] = what;
      }
    }
  }
  return function;
}

Json NormalizedCall(const Json& call, const std::string& where, std::optional<ApiError>& error,
                    bool& broken) {
  Json out;
  if (!call.is_object()) {
    error = WrongType(where, "an object", call);
    return out;
  }
  FieldReader fields(call, where + ".", error);
  if (const Json* id = fields.find("id"); id != nullptr && id->is_string()) out["id"] = *id;
  const std::string type = fields.text("type").value_or("function");
  out["type"] = "function";
  if (fields.ok() && type != "function" && !type.empty()) {
    out["function"] = CallOfOtherType(call, type);
    return out;
  }
  const Json* function = fields.find_object("function");
  if (function == nullptr) {
    fields.fail("function", fmt::format("'{}.function' is missing: expected an object", where),
                "missing_parameter");
    return out;
  }
  FieldReader inner(*function, where + ".function.", error);
  out["function"]["name"] = inner.required_text("name");
  const Json* arguments = inner.find("arguments");
  out["function"]["arguments"] = NormalizedArguments(arguments == nullptr ? Json() : *arguments, broken);
  return out;
}

/// One message, on its way to the template.
class MessageReader {
 public:
  MessageReader(const Json& message, std::string where, std::optional<ApiError>& error)
      : where_(std::move(where)), error_(error), fields_(message, where_ + ".", error) {}

  Json read() {
    read_role();
    read_calls();
    read_content();
    if (!reasoning_.empty()) out_["reasoning_content"] = reasoning_;
    for (const char* name : {"name", "tool_call_id"}) {
      const Json* value = fields_.find(name);
      if (value != nullptr && value->is_string()) out_[name] = *value;
    }
    if (!calls_.empty()) out_["tool_calls"] = std::move(calls_);
    return std::move(out_);
  }
  bool broken() const { return broken_; }

 private:
  void read_role() {
    role_ = fields_.required_text("role");
    if (fields_.ok() && std::ranges::find(kRoles, role_) == kRoles.end()) {
      fields_.fail(
          "role",
          fmt::format("'{}.role' must be one of {}, got '{}'", where_, fmt::join(kRoles, ", "), role_),
          "invalid_value");
    }
    // OpenAI's newer name of "system", and its older one of "tool"; templates know only these.
    if (role_ == "developer") role_ = "system";
    if (role_ == "function") role_ = "tool";
    out_["role"] = role_;
  }
  void read_calls() {
    calls_ = Json::array();
    if (const Json* calls = fields_.find_array("tool_calls")) {
      for (size_t i = 0; i < calls->size() && fields_.ok(); ++i) {
        calls_.push_back(
            NormalizedCall((*calls)[i], fmt::format("{}.tool_calls[{}]", where_, i), error_, broken_));
      }
    }
    // The one call that an answer could have before there were lists of them.
    const Json* call = fields_.find("function_call");
    if (call != nullptr && call->is_object() && calls_.empty() && !call->empty()) {
      calls_.push_back(NormalizedCall({{"function", *call}}, where_ + ".function_call", error_, broken_));
    }
    if (!calls_.empty() && role_ != "assistant") {
      fields_.fail("tool_calls", fmt::format("'{}.tool_calls' belongs to assistant messages only", where_),
                   "invalid_value");
    }
  }
  void read_content() {
    for (const char* name : kReasoningKeys) {
      const Json* value = fields_.find(name);
      if (value != nullptr && value->is_string() && reasoning_.empty())
        reasoning_ = value->get<std::string>();
    }
    const Json* content = fields_.find("content");
    out_["content"] = "";  // Templates concatenate it; None would print as "None" in some.
    if (content == nullptr) {
      read_absent_content();
    } else if (content->is_string()) {
      out_["content"] = *content;
    } else if (content->is_array()) {
      PartsText parts = TextOfParts(*content, fields_.path_of("content"), error_);
      out_["content"] = std::move(parts.content);
      if (reasoning_.empty()) reasoning_ = std::move(parts.reasoning);
    } else {
      fields_.fail_type("content", "a string or an array of text parts", *content);
    }
  }
  // An assistant may have said nothing, and a tool given nothing; a refusal is what was said instead.
  void read_absent_content() {
    if (role_ == "assistant") {
      const Json* refusal = fields_.find("refusal");
      if (refusal != nullptr && refusal->is_string()) out_["content"] = *refusal;
    } else if (role_ != "tool" && !fields_.present("content")) {
      fields_.fail("content",
                   fmt::format("'{}' is missing: expected a string or an array of text parts",
                               fields_.path_of("content")),
                   "missing_parameter");
    }
  }

  const std::string where_;
  std::optional<ApiError>& error_;
  FieldReader fields_;
  Json out_;
  std::string role_;
  std::string reasoning_;
  Json calls_;
  bool broken_ = false;
};

Json NormalizedTool(const Json& tool, const std::string& where, std::optional<ApiError>& error) {
  Json out;
  if (!tool.is_object()) {
    error = WrongType(where, "an object", tool);
    return out;
  }
  FieldReader fields(tool, where + ".", error);
  const std::string type = fields.text("type").value_or("function");
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
  for (const char* hint : kToolHints) fields.harmless(hint);
  fields.refuse_others();
  FieldReader inner(*function, where + ".function.", error);
  const std::string name = inner.required_text("name");
  inner.text("description");
  inner.find_object("parameters");
  for (const char* hint : kToolHints) inner.harmless(hint);
  inner.find("return");
  inner.refuse_others();
  for (const auto& [key, value] : function->items()) {
    if (!value.is_null() && std::ranges::find(kToolHints, key) == kToolHints.end())
      out["function"][key] = value;
  }
  return out;
}

/// {} in place of arguments that are no object.
Json WithoutBroken(Json messages) {
  for (Json& message : messages) {
    if (!message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) {
      if (!call["function"]["arguments"].is_object()) call["function"]["arguments"] = Json::object();
    }
  }
  return messages;
}

}  // namespace

NormalizedConversation NormalizedMessages(const Json& messages, std::optional<ApiError>& error) {
  Json all = Json::array();
  bool broken = false;
  for (size_t i = 0; i < messages.size() && !error.has_value(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    if (!messages[i].is_object()) {
      error = WrongType(where, "an object", messages[i]);
      break;
    }
    MessageReader reader(messages[i], where, error);
    all.push_back(reader.read());
    broken |= reader.broken();
  }
  if (error.has_value() || all.empty()) return {};
  const Json& last = all.back();
  const bool assistant = last["role"] == "assistant";
  return {.messages = DumpJson(all),
          .messages_without_broken = broken ? DumpJson(WithoutBroken(all)) : "",
          .ends_with_assistant_text =
              assistant && !last.contains("tool_calls") && !FieldReader::IsEmpty(last["content"]),
          .continued = assistant && messages.back().contains("prefix") && messages.back()["prefix"] == true};
}

Json NormalizedTools(const Json& tools, std::optional<ApiError>& error) {
  Json out = Json::array();
  for (size_t i = 0; i < tools.size() && !error.has_value(); ++i) {
    out.push_back(NormalizedTool(tools[i], fmt::format("tools[{}]", i), error));
  }
  return out;
}

}  // namespace shoal
