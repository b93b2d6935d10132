#include "api/openai/responses_request.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/field_reader.h"

namespace shoal {
namespace {

using Error = std::optional<ApiError>;

/// The text of a message's content, or of what a tool gave: a string, or parts.
std::string TextOf(const Json& content, const std::string& where, Error& error) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  if (!content.is_array()) {
    error = WrongType(where, "a string or an array of parts", content);
    return text;
  }
  EachObject(content, where, error, [&](FieldReader& part) {
    const std::string type = part.required_text("type");
    if (type == "refusal") {
      text += part.required_text("refusal");
    } else if (type == "input_text" || type == "output_text" || type == "text" || type == "reasoning_text" ||
               type == "summary_text") {
      text += part.required_text("text");
    } else if (part.ok()) {
      part.fail("type",
                fmt::format("'{}' is '{}', but this model takes only text", part.path_of("type"), type),
                "unsupported_parameter");
    }
  });
  return text;
}

/// Puts items one after another into messages: what an assistant thought, said and called in a row is one message.
class ItemReader {
 public:
  ItemReader(Json messages, Error& error) : messages_(std::move(messages)), error_(error) {}

  void add(const Json& item, const std::string& where) {
    if (!item.is_object()) {
      error_ = WrongType(where, "an object", item);
      return;
    }
    FieldReader fields(item, where + ".", error_);
    const std::string type = fields.text("type").value_or("message");
    if (type == "message") return add_message(fields);
    if (type == "reasoning") return add_reasoning(fields);
    if (type == "function_call") return add_call(fields, fields.text("arguments").value_or(""));
    if (type == "custom_tool_call") {
      return add_call(fields, DumpJson({{"input", fields.text("input").value_or("")}}));
    }
    if (type == "function_call_output" || type == "custom_tool_call_output") return add_output(fields);
    // What another server searched or drew is not to be had here; what was said of it is.
    if (type.ends_with("_call") || type == "item_reference" || type == "compaction") return;
    fields.fail("type",
                fmt::format("'{}' is '{}', which this server does not know", fields.path_of("type"), type),
                "unsupported_parameter");
  }

  Json take() {
    flush();
    return std::move(messages_);
  }

 private:
  void add_message(FieldReader& fields) {
    const std::string role = fields.required_text("role");
    const Json* content = fields.find("content");
    const std::string text = content == nullptr ? "" : TextOf(*content, fields.path_of("content"), error_);
    if (role == "assistant") {
      if (assistant_.contains("tool_calls") || assistant_.contains("content")) flush();
      assistant_["content"] = text;
      return;
    }
    flush();
    if (fields.ok() && role != "user" && role != "system" && role != "developer") {
      fields.fail("role",
                  fmt::format("'{}' must be user, assistant, system or developer, got '{}'",
                              fields.path_of("role"), role),
                  "invalid_value");
    }
    messages_.push_back({{"role", role}, {"content", text}});
  }
  void add_reasoning(FieldReader& fields) {
    std::string text;
    for (const char* name : {"content", "summary"}) {
      const Json* parts = fields.find(name);
      if (parts != nullptr && text.empty()) text = TextOf(*parts, fields.path_of(name), error_);
    }
    if (text.empty()) return;  // Encrypted by another server.
    if (assistant_.contains("content") || assistant_.contains("tool_calls")) flush();
    assistant_["reasoning_content"] = assistant_.value("reasoning_content", "") + text;
  }
  void add_call(FieldReader& fields, const std::string& arguments) {
    const std::string name = fields.required_text("name");
    const std::string id = fields.required_text("call_id");
    assistant_["tool_calls"].push_back(
        {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}});
  }
  void add_output(FieldReader& fields) {
    const std::string id = fields.required_text("call_id");
    const Json* output = fields.find("output");
    const std::string text = output == nullptr ? "" : TextOf(*output, fields.path_of("output"), error_);
    flush();
    messages_.push_back({{"role", "tool"}, {"tool_call_id", id}, {"content", text}});
  }
  void flush() {
    if (assistant_.empty()) return;
    Json message = {{"role", "assistant"}, {"content", assistant_.value("content", "")}};
    for (const char* key : {"reasoning_content", "tool_calls"}) {
      if (assistant_.contains(key)) message[key] = assistant_[key];
    }
    messages_.push_back(std::move(message));
    assistant_ = Json::object();
  }

  Json messages_;
  Json assistant_ = Json::object();
  Error& error_;
};

/// A request while it is read.
struct Draft {
  ResponsesRequest request;
  Json chat = Json::object();
  Json echo = Json::object();
};

Json ReadConversation(FieldReader& fields, Error& error, const EarlierMessages& earlier) {
  Json before = Json::array();
  if (const auto id = fields.text("previous_response_id")) {
    auto found = earlier(*id);
    if (!found.has_value()) {
      fields.fail(
          "previous_response_id",
          fmt::format("Previous response with id '{}' not found: this server keeps the latest ones only; "
                      "send the whole conversation as 'input'",
                      *id),
          "previous_response_not_found");
      return before;
    }
    before = Json::parse(*found);  // Our own text.
  }
  ItemReader items(std::move(before), error);
  const Json* input = fields.find("input");
  if (input == nullptr) {
    fields.fail("input", "'input' is missing: expected a string or an array of items", "missing_parameter");
  } else if (input->is_string()) {
    items.add({{"role", "user"}, {"content", *input}}, "input");
  } else if (input->is_array()) {
    for (size_t i = 0; i < input->size() && fields.ok(); ++i)
      items.add((*input)[i], fmt::format("input[{}]", i));
  } else {
    fields.fail_type("input", "a string or an array of items", *input);
  }
  return items.take();
}

/// Tools that run on OpenAI's servers are left out: a model that is not told of them does not call them.
void ReadTools(FieldReader& fields, Error& error, Draft& out) {
  const Json* tools = fields.find_array("tools");
  out.echo["tools"] = tools == nullptr ? Json::array() : *tools;
  if (tools == nullptr) return;
  for (size_t i = 0; i < tools->size() && fields.ok(); ++i) {
    const std::string where = fmt::format("tools[{}]", i);
    if (!(*tools)[i].is_object()) return fields.fail_type(where, "an object", (*tools)[i]);
    FieldReader tool((*tools)[i], where + ".", error);
    const std::string type = tool.required_text("type");
    if (type != "function" && type != "custom") continue;
    Json function = {{"name", tool.required_text("name")}};
    if (const auto description = tool.text("description")) function["description"] = *description;
    if (type == "function") {
      const Json* parameters = tool.find_object("parameters");
      function["parameters"] =
          parameters == nullptr ? Json({{"type", "object"}, {"properties", Json::object()}}) : *parameters;
    } else {
      out.request.custom_tools.insert(function["name"].get<std::string>());
      function["parameters"] = {
          {"type", "object"}, {"properties", {{"input", {{"type", "string"}}}}}, {"required", {"input"}}};
    }
    out.chat["tools"].push_back({{"type", "function"}, {"function", std::move(function)}});
  }
}

void ReadToolChoice(FieldReader& fields, Error& error, Draft& out) {
  const Json* choice = fields.find("tool_choice");
  out.echo["tool_choice"] = choice == nullptr ? Json("auto") : *choice;
  if (choice == nullptr) return;
  if (choice->is_string()) {
    out.chat["tool_choice"] = *choice;
  } else if (choice->is_object()) {
    FieldReader inner(*choice, "tool_choice.", error);
    const std::string type = inner.required_text("type");
    if (inner.ok() && type != "function" && type != "custom") {
      return inner.fail("type",
                        fmt::format("'tool_choice.type' is '{}', but this server has no such tool", type),
                        "unsupported_parameter");
    }
    out.chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", inner.required_text("name")}}}};
  } else {
    fields.fail_type("tool_choice", "a string or an object", *choice);
  }
}

void ReadText(FieldReader& fields, Error& error, Draft& out) {
  const Json* text = fields.find_object("text");
  out.echo["text"] = text == nullptr ? Json({{"format", {{"type", "text"}}}}) : *text;
  if (text == nullptr) return;
  FieldReader inner(*text, "text.", error);
  inner.text("verbosity");
  if (const Json* format = inner.find_object("format")) {
    const std::string type = format->value("type", "");
    if (type == "json_schema") {
      Json schema = *format;
      schema.erase("type");
      out.chat["response_format"] = {{"type", type}, {"json_schema", std::move(schema)}};
    } else if (type != "text") {
      out.chat["response_format"] = {{"type", type}};
    }
  }
  inner.refuse_others();
}

void ReadReasoning(FieldReader& fields, Error& error, Draft& out) {
  const Json* reasoning = fields.find_object("reasoning");
  out.echo["reasoning"] = {{"effort", nullptr}, {"summary", nullptr}};
  if (reasoning == nullptr) return;
  out.echo["reasoning"].update(*reasoning);
  FieldReader inner(*reasoning, "reasoning.", error);
  if (const auto effort = inner.text("effort")) {
    out.chat["chat_template_kwargs"]["reasoning_effort"] = *effort;
    if (*effort == "none") out.chat["chat_template_kwargs"]["enable_thinking"] = false;
  }
  for (const char* name : {"summary", "generate_summary", "context"}) inner.find(name);
  inner.refuse_others();
}

void ReadSampling(FieldReader& fields, Draft& out) {
  const auto tokens = fields.integer("max_output_tokens", 1, INT32_MAX);
  const auto temperature = fields.number("temperature", {0, 2});
  const auto top_p = fields.number("top_p", {0, 1});
  if (tokens.has_value()) out.chat["max_tokens"] = *tokens;
  if (temperature.has_value()) out.chat["temperature"] = *temperature;
  if (top_p.has_value()) out.chat["top_p"] = *top_p;
  if (const auto priority = ReadPriority(fields)) out.chat["priority"] = *priority;
  out.echo["max_output_tokens"] = tokens.has_value() ? Json(*tokens) : Json(nullptr);
  out.echo["temperature"] = temperature.value_or(1.0);
  out.echo["top_p"] = top_p.value_or(1.0);
}

/// What cannot change the answer: tags, hints on caching and routing, and what an answer may show beside its text.
void SkipHints(FieldReader& fields, Draft& out) {
  for (const char* name :
       {"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
        "service_tier", "include", "stream_options", "client_metadata", "max_tool_calls",
        "context_management", "access_programs", "image"}) {
    fields.find(name);
  }
  const Json* metadata = fields.find_object("metadata");
  out.echo["metadata"] = metadata == nullptr ? Json::object() : *metadata;
  out.echo["parallel_tool_calls"] = fields.boolean("parallel_tool_calls").value_or(true);
  fields.only("truncation", {"disabled", "auto"});
  fields.only("background", {false});
  fields.only("top_logprobs", {0});
  fields.only("conversation", {});
  fields.only("prompt", {});
  fields.only("moderation", {});
}

}  // namespace

ApiResult<ResponsesRequest> ParseResponses(std::string_view body, const EarlierMessages& earlier) {
  const auto object = ParseJson(body);
  if (!object.has_value()) return std::unexpected(object.error());
  if (!object->is_object()) {
    return std::unexpected(
        ApiError{.message = fmt::format("the body must be a JSON object, got {}", JsonTypeName(*object))});
  }
  Draft out;
  Error error;
  FieldReader fields(*object, "", error);
  out.request.model = fields.text("model");
  if (out.request.model == "") out.request.model.reset();
  out.request.stream = fields.boolean("stream").value_or(false);
  out.request.store = fields.boolean("store").value_or(true);
  const Json messages = ReadConversation(fields, error, earlier);
  const auto instructions = fields.text("instructions");
  const auto previous = fields.text("previous_response_id");
  out.chat["messages"] = messages;
  if (instructions.has_value()) {
    Json system = {{"role", "system"}, {"content", *instructions}};
    out.chat["messages"].insert(out.chat["messages"].begin(), std::move(system));
  }
  out.echo = {{"instructions", instructions.has_value() ? Json(*instructions) : Json(nullptr)},
              {"previous_response_id", previous.has_value() ? Json(*previous) : Json(nullptr)},
              {"store", out.request.store},
              {"truncation", "disabled"}};
  ReadTools(fields, error, out);
  ReadToolChoice(fields, error, out);
  ReadText(fields, error, out);
  ReadReasoning(fields, error, out);
  ReadSampling(fields, out);
  SkipHints(fields, out);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  out.request.messages = DumpJson(messages);
  out.request.chat = DumpJson(out.chat);
  out.request.echo = DumpJson(out.echo);
  return std::move(out.request);
}

}  // namespace shoal
