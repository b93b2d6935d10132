#include "api/ollama/request.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/field_reader.h"

namespace shoal {
namespace {

using Error = std::optional<ApiError>;

/// Options that say how Ollama itself runs a model; here the cluster decides that.
constexpr const char* kMachineOptions[] = {
    "num_ctx",  "num_keep", "num_batch", "num_gpu",   "main_gpu",   "num_thread",    "numa",
    "low_vram", "f16_kv",   "use_mmap",  "use_mlock", "vocab_only", "repeat_last_n", "penalize_newline"};

void CopyNumber(FieldReader& fields, const char* name, NumberRange range, const char* as, Json& chat) {
  if (const auto value = fields.number(name, range)) chat[as] = *value;
}

void ReadOptions(FieldReader& fields, Error& error, Json& chat) {
  const Json* options = fields.find_object("options");
  if (options == nullptr) return;
  FieldReader inner(*options, "options.", error);
  CopyNumber(inner, "temperature", {0, 2}, "temperature", chat);
  CopyNumber(inner, "top_p", {0, 1}, "top_p", chat);
  CopyNumber(inner, "min_p", {0, 1}, "min_p", chat);
  CopyNumber(inner, "repeat_penalty", {0.01, 10}, "repetition_penalty", chat);
  CopyNumber(inner, "presence_penalty", {-2, 2}, "presence_penalty", chat);
  CopyNumber(inner, "frequency_penalty", {-2, 2}, "frequency_penalty", chat);
  if (const auto top_k = inner.integer("top_k", -1, INT32_MAX)) chat["top_k"] = *top_k;
  if (const Json* seed = inner.find("seed")) chat["seed"] = *seed;
  if (const Json* stop = inner.find("stop")) chat["stop"] = *stop;
  // -1: until the model ends; -2: until the context is full.
  const auto limit = inner.integer("num_predict", -2, INT32_MAX);
  if (limit.value_or(-1) > 0) chat["max_tokens"] = *limit;
  inner.only("num_predict", {-1, -2, limit.value_or(-1) > 0 ? Json(*limit) : Json(-1)});
  for (const char* name : kMachineOptions) inner.find(name);
  inner.only("mirostat", {0});
  inner.only("typical_p", {1, 1.0});
  inner.only("tfs_z", {1, 1.0});
  for (const char* name : {"mirostat_tau", "mirostat_eta"}) inner.find(name);
  inner.refuse_others();
}

void ReadThink(FieldReader& fields, Json& chat) {
  const Json* think = fields.find("think");
  if (think == nullptr) return;
  if (think->is_string()) {
    chat["chat_template_kwargs"]["reasoning_effort"] = *think;
    chat["chat_template_kwargs"]["enable_thinking"] = true;
  } else if (think->is_boolean()) {
    chat["chat_template_kwargs"]["enable_thinking"] = *think;
    chat["chat_template_kwargs"]["thinking"] = *think;
  } else {
    fields.fail_type("think", "a boolean, or \"low\", \"medium\" or \"high\"", *think);
  }
}

void ReadFormat(FieldReader& fields, Json& chat) {
  const Json* format = fields.find("format");
  if (format == nullptr || *format == "") return;
  if (*format == "json") {
    chat["response_format"] = {{"type", "json_object"}};
  } else if (format->is_object()) {
    chat["response_format"] = {{"type", "json_schema"},
                               {"json_schema", {{"name", "answer"}, {"schema", *format}}}};
  } else {
    fields.fail_type("format", "\"json\" or a JSON schema", *format);
  }
}

/// What chat and generate share.
void ReadCommon(FieldReader& fields, Error& error, OllamaRequest& out, Json& chat) {
  if (const auto model = fields.text("model"); model.has_value() && !model->empty()) {
    out.model = *model;
  }
  out.stream = fields.boolean("stream").value_or(true);
  ReadOptions(fields, error, chat);
  ReadThink(fields, chat);
  ReadFormat(fields, chat);
  if (const auto priority = ReadPriority(fields)) chat["priority"] = *priority;
  for (const char* name : {"keep_alive", "truncate", "shift"}) fields.find(name);
  fields.only("logprobs", {false});
  fields.only("top_logprobs", {0});
}

void RefuseImages(FieldReader& fields) {
  const Json* images = fields.find("images");
  if (images == nullptr || (images->is_array() && images->empty())) return;
  fields.fail("images",
              fmt::format("'{}' has images, but this model takes only text", fields.path_of("images")),
              "unsupported_parameter");
}

Json Calls(const Json& list, const std::string& where, Error& error) {
  Json calls = Json::array();
  for (size_t i = 0; i < list.size() && !error.has_value(); ++i) {
    const std::string path = fmt::format("{}[{}]", where, i);
    const Json* function =
        list[i].is_object() && list[i].contains("function") ? &list[i]["function"] : nullptr;
    if (function == nullptr || !function->is_object()) {
      error = ApiError{.message = fmt::format("'{}.function' must be an object", path),
                       .param = path + ".function",
                       .code = "invalid_type"};
      break;
    }
    FieldReader fields(*function, path + ".function.", error);
    const std::string name = fields.required_text("name");
    const Json* arguments = fields.find("arguments");
    Json call = {{"type", "function"}, {"function", {{"name", name}, {"arguments", "{}"}}}};
    if (arguments != nullptr) {
      call["function"]["arguments"] = arguments->is_string() ? *arguments : Json(DumpJson(*arguments));
    }
    const auto id = list[i].find("id");
    if (id != list[i].end() && id->is_string()) call["id"] = *id;
    calls.push_back(std::move(call));
  }
  return calls;
}

Json MessageOf(const Json& message, const std::string& where, Error& error) {
  FieldReader fields(message, where + ".", error);
  const std::string role = fields.required_text("role");
  if (fields.ok() && role != "system" && role != "user" && role != "assistant" && role != "tool") {
    fields.fail("role",
                fmt::format("'{}.role' must be system, user, assistant or tool, got '{}'", where, role),
                "invalid_value");
  }
  Json out = {{"role", role}, {"content", fields.text("content").value_or("")}};
  RefuseImages(fields);
  if (const auto thinking = fields.text("thinking"); thinking.has_value() && !thinking->empty()) {
    out["reasoning_content"] = *thinking;
  }
  const Json* calls = fields.find_array("tool_calls");
  if (calls != nullptr && !calls->empty()) out["tool_calls"] = Calls(*calls, where + ".tool_calls", error);
  for (const char* name : {"tool_name", "name"}) {
    if (const auto tool = fields.text(name)) out["name"] = *tool;
  }
  if (const auto id = fields.text("tool_call_id"); id.has_value() && role == "tool")
    out["tool_call_id"] = *id;
  return out;
}

void ReadChat(FieldReader& fields, Error& error, OllamaRequest& out, Json& chat) {
  if (const Json* tools = fields.find_array("tools"); tools != nullptr && !tools->empty()) {
    chat["tools"] = *tools;
  }
  chat["messages"] = Json::array();
  const Json* messages = fields.find_array("messages");
  out.load_only = messages == nullptr || messages->empty();
  for (size_t i = 0; !out.load_only && i < messages->size() && fields.ok(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    const Json& message = (*messages)[i];
    if (message.is_object()) {
      chat["messages"].push_back(MessageOf(message, where, error));
    } else {
      fields.fail_type(where, "an object", message);
    }
  }
}

void ReadGenerate(FieldReader& fields, Error&, OllamaRequest& out, Json& chat) {
  const std::string prompt = fields.text("prompt").value_or("");
  const std::string system = fields.text("system").value_or("");
  out.load_only = prompt.empty();
  chat["messages"] = Json::array();
  if (!system.empty()) chat["messages"].push_back({{"role", "system"}, {"content", system}});
  chat["messages"].push_back({{"role", "user"}, {"content", prompt}});
  if (fields.boolean("raw").value_or(false)) out.raw = prompt;
  RefuseImages(fields);
  fields.only("suffix", {""});
  fields.only("template", {""});
  fields.only("context", {Json::array()});
}

/// `read` reads what is not common to both kinds of requests.
ApiResult<OllamaRequest> Parse(std::string_view body,
                               void (*read)(FieldReader&, Error&, OllamaRequest&, Json& chat)) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  OllamaRequest out;
  Error error;
  Json chat;
  FieldReader fields(*object, "", error);
  ReadCommon(fields, error, out, chat);
  read(fields, error, out, chat);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  out.chat = DumpJson(chat);
  return out;
}

}  // namespace

ApiResult<OllamaRequest> ParseOllamaChat(std::string_view body) { return Parse(body, &ReadChat); }
ApiResult<OllamaRequest> ParseOllamaGenerate(std::string_view body) { return Parse(body, &ReadGenerate); }

ApiResult<std::string> ParseOllamaShow(std::string_view body) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  Error error;
  FieldReader fields(*object, "", error);
  const auto older = fields.text("name");
  const auto model = fields.text("model");
  fields.boolean("verbose");
  fields.refuse_others();
  if (fields.ok() && !model.has_value() && !older.has_value()) {
    fields.fail("model", "'model' is missing: expected a string", "missing_parameter");
  }
  if (error.has_value()) return std::unexpected(*std::move(error));
  return model.has_value() ? *model : *older;
}

}  // namespace shoal
