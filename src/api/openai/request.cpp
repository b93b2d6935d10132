#include "api/openai/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "api/field_reader.h"
#include "api/json.h"
#include "api/openai/messages.h"

namespace shoal {
namespace {

constexpr size_t kStopsMax = 4;
constexpr size_t kStopBytesMax = 1024;  // Bounds the search for the longest pending stop after each token.
constexpr int64_t kTokensMax = int64_t{1} << 31;

void ReadLogitBias(FieldReader& fields, const RequestLimits& limits, SamplingFields& out) {
  const Json* bias = fields.find_object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    const std::string name = "logit_bias." + key;
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id < 0 || id >= limits.vocabulary) {
      return fields.fail(name,
                         fmt::format("'logit_bias' has the key '{}'; keys are token ids from 0 to {}", key,
                                     limits.vocabulary - 1),
                         "invalid_value");
    }
    if (!value.is_number()) return fields.fail_type(name, "a number", value);
    const auto number = value.get<double>();
    if (!(number >= -100 && number <= 100)) {
      return fields.fail(name, fmt::format("'{}' must be from -100 to 100, got {}", name, value.dump()),
                         "invalid_value");
    }
    out.logit_bias.emplace_back(id, static_cast<float>(number));
  }
  // "7" and "07" are the same id.
  std::ranges::sort(out.logit_bias);
  const auto same = std::ranges::adjacent_find(out.logit_bias, {}, &std::pair<int32_t, float>::first);
  if (same != out.logit_bias.end()) {
    fields.fail("logit_bias", fmt::format("'logit_bias' names token {} twice", same->first), "invalid_value");
  }
}

void ReadSeed(FieldReader& fields, SamplingFields& out) {
  const Json* seed = fields.find("seed");
  if (seed == nullptr) return;
  if (!seed->is_number_integer()) return fields.fail_type("seed", "an integer", *seed);
  out.seed = seed->is_number_unsigned() ? seed->get<uint64_t>() : static_cast<uint64_t>(seed->get<int64_t>());
}

void ReadSampling(FieldReader& fields, const RequestLimits& limits, SamplingFields& out) {
  out.temperature = fields.number("temperature", {0, 2});
  out.top_p = fields.number("top_p", {0, 1, true});
  out.min_p = fields.number("min_p", {0, 1});
  out.top_k = fields.integer("top_k", -1, INT32_MAX);
  out.repetition_penalty = fields.number("repetition_penalty", {0.01, 10});
  out.presence_penalty = fields.number("presence_penalty", {-2, 2});
  out.frequency_penalty = fields.number("frequency_penalty", {-2, 2});
  ReadSeed(fields, out);
  ReadLogitBias(fields, limits, out);
}

void AddStop(FieldReader& fields, const std::string& name, const Json& value, std::vector<std::string>& out) {
  if (!value.is_string()) return fields.fail_type(name, "a string", value);
  std::string text = value.get<std::string>();
  if (text.empty() || text.size() > kStopBytesMax) {
    return fields.fail(
        name, fmt::format("'{}' must have from 1 to {} bytes, got {}", name, kStopBytesMax, text.size()),
        "invalid_value");
  }
  out.push_back(std::move(text));
}

void ReadStop(FieldReader& fields, std::vector<std::string>& out) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) return AddStop(fields, "stop", *stop, out);
  if (!stop->is_array()) return fields.fail_type("stop", "a string or an array of strings", *stop);
  if (stop->size() > kStopsMax) {
    return fields.fail("stop",
                       fmt::format("'stop' may have up to {} strings, got {}", kStopsMax, stop->size()),
                       "invalid_value");
  }
  for (size_t i = 0; i < stop->size(); ++i) AddStop(fields, fmt::format("stop[{}]", i), (*stop)[i], out);
}

void ReadStream(FieldReader& fields, std::optional<ApiError>& error, CommonFields& out) {
  out.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.find_object("stream_options");
  if (options == nullptr) return;
  if (!out.stream) {
    return fields.fail("stream_options", "'stream_options' is only allowed when 'stream' is true",
                       "invalid_value");
  }
  FieldReader inner(*options, "stream_options.", error);
  out.include_usage = inner.boolean("include_usage").value_or(false);
  inner.only("include_obfuscation", {false});
  inner.refuse_others();
}

// Tags that only the sender gives a meaning to, and switches whose off (or only) position is what happens
// here.
void AcceptNoOps(FieldReader& fields) {
  for (const char* tag : {"user", "safety_identifier", "prompt_cache_key"}) fields.text(tag);
  if (const Json* metadata = fields.find_object("metadata")) {
    for (const auto& [key, value] : metadata->items()) {
      if (!value.is_string()) fields.fail_type("metadata." + key, "a string", value);
    }
  }
  fields.only("n", {1});
  fields.only("store", {false});
  fields.only("service_tier", {"auto", "default"});
}

void ReadCommon(FieldReader& fields, const RequestLimits& limits, std::optional<ApiError>& error,
                CommonFields& out) {
  out.model = fields.text("model");
  ReadSampling(fields, limits, out.sampling);
  ReadStop(fields, out.stop);
  ReadStream(fields, error, out);
  out.max_tokens = fields.integer("max_tokens", 1, kTokensMax);
  AcceptNoOps(fields);
}

void ReadTemplateKwargs(FieldReader& fields, ChatCompletionRequest& out) {
  const Json* kwargs = fields.find_object("chat_template_kwargs");
  if (kwargs == nullptr) return;
  for (const char* taken : {"messages", "tools", "add_generation_prompt", "continue_final_message"}) {
    if (!kwargs->contains(taken)) continue;
    fields.fail(fmt::format("chat_template_kwargs.{}", taken),
                fmt::format("'chat_template_kwargs.{}' is set by the server from the request itself", taken),
                "unsupported_parameter");
  }
  out.template_kwargs = DumpJson(*kwargs);
}

void ReadTools(FieldReader& fields, std::optional<ApiError>& error, ChatCompletionRequest& out) {
  const Json* tools = fields.find_array("tools");
  const Json* choice = fields.find("tool_choice");
  fields.only("tool_choice", {"auto", "none"});
  fields.only("parallel_tool_calls", {true});
  if (tools == nullptr || tools->empty()) return;
  const Json normalized = NormalizedTools(*tools, error);
  // "none": the model must not call one, so it is not told of any.
  if (choice == nullptr || *choice != "none") out.tools = DumpJson(normalized);
}

void ReadMaxCompletionTokens(FieldReader& fields, CommonFields& out) {
  const auto newer = fields.integer("max_completion_tokens", 1, kTokensMax);
  if (newer.has_value() && out.max_tokens.has_value() && *newer != *out.max_tokens) {
    fields.fail(
        "max_completion_tokens",
        fmt::format("'max_completion_tokens' is {} but 'max_tokens', its older name, is {}; send one of them",
                    *newer, *out.max_tokens),
        "invalid_value");
  }
  if (newer.has_value()) out.max_tokens = newer;
}

/// The object in `body`, or why there is none.
ApiResult<Json> ParseObject(std::string_view body) {
  auto value = ParseJson(body);
  if (!value.has_value()) {
    value.error().message = "the body: " + value.error().message;
    return value;
  }
  if (!value->is_object()) {
    return std::unexpected(
        ApiError{.message = fmt::format("the body must be a JSON object, got {}", JsonTypeName(*value)),
                 .code = "invalid_type"});
  }
  return value;
}

std::vector<int32_t> TokenIds(FieldReader& fields, const Json& ids, const RequestLimits& limits) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const Json& id : ids) {
    const bool fits =
        id.is_number_unsigned() && id.get<uint64_t>() < static_cast<uint64_t>(limits.vocabulary);
    if (!fits) {
      fields.fail("prompt",
                  fmt::format("'prompt[{}]' must be a token id from 0 to {}, got {}", out.size(),
                              limits.vocabulary - 1, JsonExcerpt(id)),
                  "invalid_value");
      return {};
    }
    out.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  return out;
}

void ReadPrompt(FieldReader& fields, const RequestLimits& limits, CompletionRequest& out) {
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr)
    return fields.fail("prompt", "'prompt' is missing: expected a string", "missing_parameter");
  const bool list = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (list && prompt->size() > 1) {
    return fields.fail(
        "prompt",
        fmt::format("'prompt' has {} prompts, but only one a request is supported yet", prompt->size()),
        "unsupported_parameter");
  }
  if (list) prompt = &prompt->front();
  if (prompt->is_string()) {
    out.prompt = prompt->get<std::string>();
  } else if (prompt->is_array() && !prompt->empty()) {
    out.prompt = TokenIds(fields, *prompt, limits);
  } else {
    fields.fail_type("prompt", "a string or a non-empty array of token ids", *prompt);
  }
}

}  // namespace

ApiResult<ChatCompletionRequest> ParseChatCompletion(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseObject(body);
  if (!object.has_value()) return std::unexpected(object.error());
  ChatCompletionRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  const Json* messages = fields.find_array("messages");
  if (messages == nullptr || messages->empty()) {
    fields.fail("messages", "'messages' must be an array of at least one message", "missing_parameter");
  }
  ReadCommon(fields, limits, error, out.common);
  ReadMaxCompletionTokens(fields, out.common);
  ReadTemplateKwargs(fields, out);
  ReadTools(fields, error, out);
  fields.only("logprobs", {false});
  fields.only("top_logprobs", {0});
  fields.only("response_format", {Json::object({{"type", "text"}})});
  fields.only("modalities", {Json::array({"text"})});
  for (const char* name : {"audio", "prediction", "reasoning_effort", "verbosity", "web_search_options",
                           "functions", "function_call", "prompt_cache_retention", "moderation"}) {
    fields.only(name, {});
  }
  fields.refuse_others();
  if (fields.ok()) out.messages = DumpJson(NormalizedMessages(*messages, error));
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

ApiResult<CompletionRequest> ParseCompletion(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseObject(body);
  if (!object.has_value()) return std::unexpected(object.error());
  CompletionRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  ReadPrompt(fields, limits, out);
  ReadCommon(fields, limits, error, out.common);
  fields.only("best_of", {1});
  fields.only("echo", {false});
  fields.only("logprobs", {});
  fields.only("suffix", {""});
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

ApiResult<CompletionRequest> ParseGenerate(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseObject(body);
  if (!object.has_value()) return std::unexpected(object.error());
  CompletionRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  ReadPrompt(fields, limits, out);
  ReadCommon(fields, limits, error, out.common);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

}  // namespace shoal
