#include "api/openai/request.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/field_reader.h"
#include "api/json.h"
#include "api/openai/messages.h"

namespace shoal {
namespace {

/// Sequences of one request: bounds what a body can ask for.
constexpr int64_t kSequencesMax = 1024;

/// What requests say of reasoning, in the words of several APIs, as the variables that templates know. "none" is no
/// effort, but off.
void ReadReasoning(FieldReader& fields, std::optional<ApiError>& error, Json& kwargs) {
  std::optional<bool> enabled = fields.boolean("enable_thinking");
  std::optional<std::string> effort = fields.text("reasoning_effort");
  if (const Json* thinking = fields.find_object("thinking")) {
    FieldReader inner(*thinking, "thinking.", error);
    const auto type = inner.text("type");
    if (type.has_value()) enabled = *type != "disabled";
    inner.harmless("budget_tokens");
    inner.harmless("clear_thinking");
    inner.refuse_others();
  }
  if (const Json* reasoning = fields.find_object("reasoning")) {
    FieldReader inner(*reasoning, "reasoning.", error);
    if (const auto named = inner.text("effort")) effort = named;
    if (const auto on = inner.boolean("enabled")) enabled = on;
    inner.only("exclude", {false});
    inner.harmless("max_tokens");
    inner.harmless("summary");
    inner.refuse_others();
  }
  fields.only("include_reasoning", {true});
  fields.harmless("thinking_budget");
  fields.harmless("reasoning_format");
  if (effort == "none") {
    enabled = false;
  } else if (effort.has_value() && !effort->empty()) {
    kwargs["reasoning_effort"] = *effort;
  }
  if (!enabled.has_value()) return;
  kwargs["enable_thinking"] = *enabled;
  kwargs["thinking"] = *enabled;
}

void ReadTemplateKwargs(FieldReader& fields, std::optional<ApiError>& error, Conversation& out) {
  Json kwargs = Json::object();
  ReadReasoning(fields, error, kwargs);
  if (const Json* given = fields.find_object("chat_template_kwargs")) {
    for (const char* taken : {"messages", "tools", "add_generation_prompt", "continue_final_message"}) {
      if (!given->contains(taken)) continue;
      fields.fail(
          fmt::format("chat_template_kwargs.{}", taken),
          fmt::format("'chat_template_kwargs.{}' is set by the server from the request itself", taken),
          "unsupported_parameter");
    }
    kwargs.update(*given);
  }
  if (!kwargs.empty()) out.kwargs = DumpJson(kwargs);
}

void ReadContinuation(FieldReader& fields, const NormalizedConversation& conversation, Conversation& out) {
  using Continue = Conversation::Continue;
  const auto generation_prompt = fields.boolean("add_generation_prompt");
  const auto continued = fields.boolean("continue_final_message");
  if (continued == true && generation_prompt == true) {
    return fields.fail(
        "continue_final_message",
        "'continue_final_message' and 'add_generation_prompt' exclude each other; send one of them",
        "invalid_value");
  }
  out.add_generation_prompt = generation_prompt.value_or(true);
  if (!fields.ok()) return;
  if (continued == true || (conversation.continued && continued != false)) {
    out.continue_final = Continue::kYes;
  } else if (!continued.has_value() && !generation_prompt.has_value() &&
             conversation.ends_with_assistant_text) {
    out.continue_final = Continue::kIfPossible;
  }
}

void ReadTools(FieldReader& fields, std::optional<ApiError>& error, ChatCompletionRequest& out) {
  const Json* tools = fields.find_array("tools");
  out.tool_choice = ReadToolChoice(fields, error);
  if (tools == nullptr || tools->empty()) return;
  const Json normalized = NormalizedTools(*tools, error);
  out.tool_choice.strict = StrictTools(*tools);
  // "none": the model must not call one, so it is not told of any.
  if (out.tool_choice.kind != ToolChoice::Kind::kNone) out.conversation.tools = DumpJson(normalized);
}

void ReadChatLogprobs(FieldReader& fields, CommonFields& out) {
  const bool wanted = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, kTopLogprobsMax);
  if (top.value_or(0) > 0 && !wanted) {
    fields.fail("top_logprobs", "'top_logprobs' needs 'logprobs' to be true", "invalid_value");
  }
  if (wanted) out.sampling.top_logprobs = static_cast<int32_t>(top.value_or(0));
}

void ReadChatTokenLimit(FieldReader& fields, CommonFields& out) {
  const bool newer = fields.find("max_completion_tokens") != nullptr;
  if (newer) out.max_tokens = ReadTokenLimit(fields, "max_completion_tokens");
  if (out.max_tokens == 0) {
    const char* name = newer ? "max_completion_tokens" : "max_tokens";
    fields.fail(name, fmt::format("'{}' must be at least 1, or -1 for no limit, got 0", name),
                "invalid_value");
  }
}

/// What asks for something that there is not, by name.
void RefuseUnsupported(FieldReader& fields) {
  fields.only("modalities", {Json::array({"text"})});
  for (const char* name : {"audio", "functions", "function_call", "moderation"}) fields.only(name, {});
  fields.only("best_of", {1});
  fields.only("echo", {false});
  // Not even {}: it turns the search on.
  if (const Json* search = fields.find("web_search_options")) {
    fields.fail("web_search_options",
                fmt::format("'web_search_options' is not supported: this server can't search, got {}",
                            JsonExcerpt(*search)),
                "unsupported_parameter");
  }
}

bool IsPrompt(const Json& value) {
  return value.is_string() || (value.is_array() && !value.empty() && value.front().is_number());
}

void AddPrompt(FieldReader& fields, const RequestLimits& limits, const std::string& name, const Json& prompt,
               std::vector<PromptField>& out) {
  if (prompt.is_string()) {
    out.emplace_back(prompt.get<std::string>());
  } else if (prompt.is_array() && !prompt.empty()) {
    out.emplace_back(ReadTokenIds(fields, name, prompt, limits));
  } else {
    fields.fail_type(name, "a string or a non-empty array of token ids", prompt);
  }
}

void ReadBestOf(FieldReader& fields, CompletionRequest& out) {
  out.best_of = static_cast<int>(fields.integer("best_of", 1, kChoicesMax).value_or(out.common.n));
  if (out.best_of < out.common.n) {
    fields.fail(
        "best_of",
        fmt::format("'best_of' is {} but 'n' is {}; it must be at least as many", out.best_of, out.common.n),
        "invalid_value");
  }
  if (out.best_of > out.common.n && out.common.stream) {
    fields.fail("best_of", "'best_of' above 'n' can't be streamed: the best is known in the end only",
                "invalid_value");
  }
  const int64_t sequences = std::ssize(out.prompts) * out.best_of;
  if (sequences > kSequencesMax) {
    fields.fail(
        "prompt",
        fmt::format(
            "'prompt' has {} prompts, which with {} choices each are more than {} choices; send them in "
            "several requests",
            out.prompts.size(), out.best_of, kSequencesMax),
        "too_many_choices");
  }
}

void ReadCompletionLogprobs(FieldReader& fields, CommonFields& out) {
  const Json* value = fields.find("logprobs");
  if (value == nullptr || *value == false) return;
  if (const auto top = fields.integer("logprobs", 0, kTopLogprobsMax)) {
    out.sampling.top_logprobs = static_cast<int32_t>(*top);
  }
}

void ReadSuffix(FieldReader& fields, CompletionRequest& out) {
  out.suffix = fields.text("suffix").value_or("");
  if (!out.suffix.empty() && out.echo) {
    fields.fail("suffix", "'suffix' and 'echo' exclude each other: what would be echoed is not the beginning",
                "invalid_value");
  }
}

}  // namespace

std::vector<PromptField> ReadPrompts(FieldReader& fields, const RequestLimits& limits,
                                     const std::string& name) {
  std::vector<PromptField> prompts;
  const Json* prompt = fields.find(name);
  if (prompt == nullptr) {
    fields.fail(name, fmt::format("'{}' is missing: expected a string", name), "missing_parameter");
  } else if (IsPrompt(*prompt)) {
    AddPrompt(fields, limits, name, *prompt, prompts);
  } else if (!prompt->is_array() || prompt->empty()) {
    fields.fail_type(name, "a string, a non-empty array of token ids, or an array of these", *prompt);
  } else {
    for (size_t i = 0; i < prompt->size(); ++i) {
      AddPrompt(fields, limits, fmt::format("{}[{}]", name, i), (*prompt)[i], prompts);
    }
  }
  if (std::ssize(prompts) > kSequencesMax) {
    fields.fail(name,
                fmt::format("'{}' has {} entries, which is more than {}; send them in several requests", name,
                            prompts.size(), kSequencesMax),
                "too_many_choices");
  }
  return prompts;
}

ApiResult<ChatCompletionRequest> ParseChatCompletion(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  ChatCompletionRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  const Json* messages = fields.find_array("messages");
  if (messages == nullptr || messages->empty()) {
    fields.fail("messages", "'messages' must be an array of at least one message", "missing_parameter");
  }
  ReadCommon(fields, limits, error, out.common);
  ReadChatTokenLimit(fields, out.common);
  ReadChatLogprobs(fields, out.common);
  ReadTemplateKwargs(fields, error, out.conversation);
  ReadTools(fields, error, out);
  RefuseUnsupported(fields);
  NormalizedConversation conversation;
  if (fields.ok()) conversation = NormalizedMessages(*messages, error);
  ReadContinuation(fields, conversation, out.conversation);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  out.conversation.messages = std::move(conversation.messages);
  out.conversation.fallback_messages = std::move(conversation.messages_without_broken);
  return out;
}

ApiResult<CompletionRequest> ParseCompletion(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  CompletionRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  out.prompts = ReadPrompts(fields, limits, "prompt");
  ReadCommon(fields, limits, error, out.common);
  ReadBestOf(fields, out);
  ReadCompletionLogprobs(fields, out.common);
  out.echo = fields.boolean("echo").value_or(false);
  out.token_limit_given = fields.find("max_tokens") != nullptr;
  ReadSuffix(fields, out);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

ApiResult<CompletionRequest> ParseGenerate(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  CompletionRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  out.prompts = ReadPrompts(fields, limits, "prompt");
  ReadCommon(fields, limits, error, out.common);
  fields.only("n", {1});
  if (out.prompts.size() > 1) {
    fields.fail("prompt", "'/generate' takes one prompt; /v1/completions takes several",
                "unsupported_parameter");
  }
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

}  // namespace shoal
