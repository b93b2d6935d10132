#include "api/anthropic/request.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/field_reader.h"

namespace shoal {
namespace {

/// Claude Code begins its system prompt with a block that differs with each of its releases and requests; it is meant
/// for billing, and would keep what follows from being found in the cache.
constexpr std::string_view kBillingBlock = "x-anthropic-billing-header:";
constexpr std::string_view kNoImage = "[an image, which this model cannot see]";

using Error = std::optional<ApiError>;

Json TextPart(std::string text) { return {{"type", "text"}, {"text", std::move(text)}}; }

/// Calls `read` with each block of `content` and its type; a text counts as one block of text.
void EachBlock(const Json& content, const std::string& where, Error& error,
               absl::FunctionRef<void(FieldReader& block, const std::string& type)> read) {
  if (content.is_string()) {
    const Json block = TextPart(content.get<std::string>());
    FieldReader fields(block, where + ".", error);
    return read(fields, fields.required_text("type"));
  }
  if (!content.is_array()) {
    error = WrongType(where, "a string or an array of blocks", content);
    return;
  }
  EachObject(content, where, error, [&](FieldReader& block) {
    const std::string type = block.required_text("type");
    if (block.ok()) read(block, type);
  });
}

void RefuseBlock(FieldReader& block, const std::string& type) {
  block.fail(
      "type",
      fmt::format("'{}' is '{}', which this model cannot read; send text", block.path_of("type"), type),
      "unsupported_parameter");
}

/// The text of a document block whose source is text.
std::string DocumentText(FieldReader& block, const std::string& type) {
  const Json* source = block.find_object("source");
  if (source != nullptr && source->value("type", "") == "text" && source->contains("data") &&
      (*source)["data"].is_string()) {
    return (*source)["data"].get<std::string>();
  }
  RefuseBlock(block, type);
  return "";
}

std::string SystemText(const Json& system, Error& error) {
  std::string text;
  EachBlock(system, "system", error, [&](FieldReader& block, const std::string& type) {
    if (type != "text") return RefuseBlock(block, type);
    const std::string more = block.required_text("text");
    if (more.starts_with(kBillingBlock)) return;
    text += (text.empty() ? "" : "\n") + more;
  });
  return text;
}

/// What a tool gave. Images stay out: a client cannot take them back from what it has sent before.
std::string ResultText(const Json* content, const std::string& where, Error& error) {
  if (content == nullptr) return "";
  std::string text;
  EachBlock(*content, where, error, [&](FieldReader& block, const std::string& type) {
    std::string more;
    if (type == "text") {
      more = block.required_text("text");
    } else if (type == "document") {
      more = DocumentText(block, type);
    } else if (type == "image") {
      more = kNoImage;
    } else {
      return RefuseBlock(block, type);
    }
    text += (text.empty() ? "" : "\n") + more;
  });
  return text;
}

/// A user's message: what tools gave comes first, each as a message of its own, as templates expect it right behind
/// the calls.
void AddUser(const Json& content, const std::string& where, Error& error, Json& messages) {
  Json parts = Json::array();
  EachBlock(content, where, error, [&](FieldReader& block, const std::string& type) {
    if (type == "text") {
      parts.push_back(TextPart(block.required_text("text")));
    } else if (type == "document") {
      parts.push_back(TextPart(DocumentText(block, type)));
    } else if (type == "tool_result") {
      const std::string id = block.required_text("tool_use_id");
      std::string text = ResultText(block.find("content"), block.path_of("content"), error);
      messages.push_back({{"role", "tool"}, {"tool_call_id", id}, {"content", std::move(text)}});
    } else {
      RefuseBlock(block, type);
    }
  });
  if (!parts.empty()) messages.push_back({{"role", "user"}, {"content", std::move(parts)}});
}

void AddAssistant(const Json& content, const std::string& where, Error& error, Json& messages) {
  Json parts = Json::array(), calls = Json::array();
  std::string reasoning;
  EachBlock(content, where, error, [&](FieldReader& block, const std::string& type) {
    if (type == "text") {
      parts.push_back(TextPart(block.required_text("text")));
    } else if (type == "thinking") {
      reasoning += block.required_text("thinking");
    } else if (type == "tool_use") {
      const std::string id = block.required_text("id");
      const std::string name = block.required_text("name");
      const Json* input = block.find("input");
      const std::string arguments = input == nullptr ? "{}" : DumpJson(*input);
      calls.push_back(
          {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}});
    } else if (type != "redacted_thinking") {  // Another model's, and unreadable.
      RefuseBlock(block, type);
    }
  });
  Json message = {{"role", "assistant"}, {"content", parts.empty() ? Json("") : std::move(parts)}};
  if (!reasoning.empty()) message["reasoning_content"] = std::move(reasoning);
  if (!calls.empty()) message["tool_calls"] = std::move(calls);
  messages.push_back(std::move(message));
}

Json Messages(FieldReader& fields, Error& error) {
  Json messages = Json::array();
  if (const Json* system = fields.find("system")) {
    std::string text = SystemText(*system, error);
    if (!text.empty()) messages.push_back({{"role", "system"}, {"content", std::move(text)}});
  }
  const Json* list = fields.find_array("messages");
  if (list == nullptr || list->empty()) {
    fields.fail("messages", "'messages' must be an array of at least one message", "missing_parameter");
    return messages;
  }
  for (size_t i = 0; i < list->size() && fields.ok(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    if (!(*list)[i].is_object()) {
      fields.fail_type(where, "an object", (*list)[i]);
      break;
    }
    FieldReader message((*list)[i], where + ".", error);
    const std::string role = message.required_text("role");
    const Json* content = message.find("content");
    if (message.ok() && content == nullptr) {
      message.fail("content",
                   fmt::format("'{}.content' is missing: expected a string or an array of blocks", where),
                   "missing_parameter");
    }
    if (!message.ok()) break;
    const std::string path = where + ".content";
    if (role == "user") {
      AddUser(*content, path, error, messages);
    } else if (role == "assistant") {
      AddAssistant(*content, path, error, messages);
    } else if (role == "system") {
      messages.push_back({{"role", "system"}, {"content", ResultText(content, path, error)}});
    } else {
      message.fail("role", fmt::format("'{}.role' must be user or assistant, got '{}'", where, role),
                   "invalid_value");
    }
  }
  return messages;
}

void ReadTools(FieldReader& fields, Error& error, Json& chat) {
  const Json* tools = fields.find_array("tools");
  if (tools == nullptr) return;
  for (size_t i = 0; i < tools->size() && fields.ok(); ++i) {
    const std::string where = fmt::format("tools[{}]", i);
    if (!(*tools)[i].is_object()) return fields.fail_type(where, "an object", (*tools)[i]);
    FieldReader tool((*tools)[i], where + ".", error);
    const std::string type = tool.text("type").value_or("custom");
    if (tool.ok() && type != "custom") {
      return tool.fail(
          "type",
          fmt::format("'{}.type' is '{}', which runs on Anthropic's servers; this server has no such "
                      "tool, leave it out",
                      where, type),
          "unsupported_parameter");
    }
    Json function = {{"name", tool.required_text("name")}};
    if (const auto description = tool.text("description")) function["description"] = *description;
    const Json* schema = tool.find_object("input_schema");
    function["parameters"] =
        schema == nullptr ? Json({{"type", "object"}, {"properties", Json::object()}}) : *schema;
    chat["tools"].push_back({{"type", "function"}, {"function", std::move(function)}});
  }
}

void ReadToolChoice(FieldReader& fields, Error& error, Json& chat) {
  const Json* choice = fields.find_object("tool_choice");
  if (choice == nullptr) return;
  FieldReader inner(*choice, "tool_choice.", error);
  const std::string type = inner.required_text("type");
  inner.find("disable_parallel_tool_use");
  if (type == "auto" || type == "none") {
    chat["tool_choice"] = type;
  } else if (type == "any") {
    chat["tool_choice"] = "required";
  } else if (type == "tool") {
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", inner.required_text("name")}}}};
  } else {
    inner.fail("type", fmt::format("'tool_choice.type' must be auto, any, tool or none, got '{}'", type),
               "invalid_value");
  }
  inner.refuse_others();
}

void ReadThinking(FieldReader& fields, Error& error, Json& chat) {
  const Json* thinking = fields.find_object("thinking");
  if (thinking == nullptr) return;
  FieldReader inner(*thinking, "thinking.", error);
  const std::string type = inner.required_text("type");
  if (inner.ok() && type != "enabled" && type != "disabled" && type != "adaptive") {
    inner.fail("type", fmt::format("'thinking.type' must be enabled, adaptive or disabled, got '{}'", type),
               "invalid_value");
  }
  inner.find("budget_tokens");
  inner.find("display");
  inner.refuse_others();
  chat["chat_template_kwargs"]["enable_thinking"] = type != "disabled";
  chat["chat_template_kwargs"]["thinking"] = type != "disabled";
}

void ReadOutputConfig(FieldReader& fields, Error& error, Json& chat) {
  const Json* format = fields.find_object("output_format");
  if (const Json* config = fields.find_object("output_config")) {
    FieldReader inner(*config, "output_config.", error);
    if (const auto effort = inner.text("effort")) chat["chat_template_kwargs"]["reasoning_effort"] = *effort;
    if (const Json* newer = inner.find_object("format")) format = newer;
    inner.find("task_budget");
    inner.refuse_others();
  }
  if (format == nullptr) return;
  FieldReader inner(*format, "output_config.format.", error);
  const std::string type = inner.required_text("type");
  const Json* schema = inner.find_object("schema");
  if (inner.ok() && (type != "json_schema" || schema == nullptr)) {
    return inner.fail("type", "'output_config.format' must be {\"type\": \"json_schema\", \"schema\": {...}}",
                      "invalid_value");
  }
  if (inner.ok()) {
    chat["response_format"] = {{"type", "json_schema"},
                               {"json_schema", {{"name", "output"}, {"schema", *schema}, {"strict", true}}}};
  }
}

void ReadSampling(FieldReader& fields, Json& chat) {
  if (const auto tokens = fields.integer("max_tokens", 1, INT32_MAX)) chat["max_tokens"] = *tokens;
  if (const auto value = fields.number("temperature", {0, 2})) chat["temperature"] = *value;
  if (const auto value = fields.number("top_p", {0, 1})) chat["top_p"] = *value;
  if (const auto value = fields.integer("top_k", 0, INT32_MAX)) chat["top_k"] = *value;
  if (const auto priority = ReadPriority(fields)) chat["priority"] = *priority;
  if (const Json* stops = fields.find_array("stop_sequences"); stops != nullptr && !stops->empty()) {
    chat["stop"] = *stops;
  }
}

/// What cannot change the answer here: hints on caching, billing and routing, and tags.
void SkipHints(FieldReader& fields) {
  for (const char* name :
       {"metadata", "service_tier", "inference_geo", "speed", "cache_control", "betas", "anthropic_version",
        "anthropic_beta", "context_management", "user_profile_id", "workspace_id", "diagnostics"}) {
    fields.find(name);
  }
  fields.only("container", {});
  fields.only("mcp_servers", {Json::array()});
}

}  // namespace

ApiResult<MessagesRequest> ParseMessages(std::string_view body) {
  const auto object = ParseJson(body);
  if (!object.has_value()) return std::unexpected(object.error());
  if (!object->is_object()) {
    return std::unexpected(
        ApiError{.message = fmt::format("the body must be a JSON object, got {}", JsonTypeName(*object))});
  }
  MessagesRequest out;
  Error error;
  Json chat;
  FieldReader fields(*object, "", error);
  out.model = fields.text("model");
  if (out.model == "") out.model.reset();
  out.stream = fields.boolean("stream").value_or(false);
  chat["messages"] = Messages(fields, error);
  ReadTools(fields, error, chat);
  ReadToolChoice(fields, error, chat);
  ReadThinking(fields, error, chat);
  ReadOutputConfig(fields, error, chat);
  ReadSampling(fields, chat);
  SkipHints(fields);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  out.chat = DumpJson(chat);
  return out;
}

}  // namespace shoal
