#include "api/answer/answer_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

/// What a tokenizer or a template says of a text is the sender's fault unless it says otherwise.
ApiError TextError(const absl::Status& status, const char* field) {
  if (status.code() != absl::StatusCode::kFailedPrecondition) return FromStatus(status, field);
  return {.status = 400,
          .message = "the model's chat template refuses the conversation: " + Message(status),
          .param = field,
          .code = "conversation_refused"};
}

/// In the order in which they are tried: a final message is continued if it can be, and what the template can't take
/// of it gives way.
std::vector<ChatRequest> WaysToRender(const Conversation& conversation) {
  using Continue = Conversation::Continue;
  std::vector<ChatRequest> ways;
  const auto add = [&](bool continued) {
    for (const std::string* messages : {&conversation.messages, &conversation.fallback_messages}) {
      if (messages->empty()) continue;
      ways.push_back({.messages = *messages,
                      .tools = conversation.tools,
                      .kwargs = conversation.kwargs,
                      .add_generation_prompt = conversation.add_generation_prompt && !continued,
                      .continue_final_message = continued,
                      .reshape = true});  // What a client replays is not to be mended by hand.
    }
  };
  if (conversation.continue_final != Continue::kNo) add(true);
  if (conversation.continue_final != Continue::kYes) add(false);
  return ways;
}

}  // namespace

uint64_t SeedFor(const SamplingFields& sampling, const ResponseWriter& writer) {
  if (sampling.seed.has_value()) return *sampling.seed;
  return writer.repeat_key().has_value() ? SeedOf(*writer.repeat_key()) : EntropySeed();
}

std::string NewAnswerId(std::string_view prefix, const ResponseWriter& writer) {
  const auto& key = writer.repeat_key();
  return fmt::format("{}{:016x}", prefix, key.has_value() ? SeedOf(*key) : EntropySeed());
}

std::string_view WithoutLatest(std::string_view name) {
  constexpr std::string_view kLatest = ":latest";
  if (name.ends_with(kLatest)) name.remove_suffix(kLatest.size());
  return name;
}

ApiError ShuttingDown() {
  return {.status = 503,
          .message = "the server is shutting down; send the request again later, or to another",
          .type = "server_error",
          .code = "shutting_down"};
}

AnswerService::AnswerService(AnswerServiceOptions options, const ServedText& text, Scheduler& scheduler,
                             Metrics& metrics)
    : options_(std::move(options)),
      text_(text),
      grammars_(text.tokenizer, {.vocabulary = options_.vocabulary, .eos_ids = options_.eos_ids}),
      scheduler_(scheduler),
      metrics_(metrics) {
  SHOAL_CHECK(!options_.model_names.empty());
  SHOAL_CHECK_GT(options_.vocabulary, 0);
}

std::optional<ApiError> AnswerService::check_model(const std::optional<std::string>& name) const {
  const auto& names = options_.model_names;
  const auto known = [&names](std::string_view one) { return std::ranges::count(names, one) > 0; };
  if (!name.has_value() || known(*name) || known(WithoutLatest(*name))) return std::nullopt;
  return ApiError{
      .status = 404,
      .message = fmt::format("The model '{}' does not exist; this server has '{}'", *name, names.front()),
      .param = "model",
      .code = "model_not_found"};
}

ApiResult<ChatPrompt> AnswerService::chat_prompt(const Conversation& conversation, const char* field) const {
  if (!text_.chat.has_value()) {
    return std::unexpected(ApiError{.message = "this model has no chat template; use /v1/completions",
                                    .param = field,
                                    .code = "no_chat_template"});
  }
  absl::Status refused;
  for (const ChatRequest& chat : WaysToRender(conversation)) {
    // The template wrote BOS itself where the model wants it.
    auto prompt = text_.chat->encode(chat, text_.tokenizer);
    if (prompt.ok()) {
      return ChatPrompt{
          .text = prompt->text,
          .tokens = std::move(prompt->ids),
          .format = options_.chat_format ? options_.chat_format(chat, prompt->text) : OutputFormat{},
          .written = options_.answer_format ? options_.answer_format(prompt->text) : AnswerFormat{}};
    }
    refused = prompt.status();
  }
  return std::unexpected(TextError(refused, field));
}

ApiResult<std::vector<int32_t>> AnswerService::text_prompt(std::string_view text, const char* field) const {
  auto ids = text_.tokenizer.encode_prompt(text);
  if (!ids.ok()) return std::unexpected(TextError(ids.status(), field));
  return *std::move(ids);
}

ApiResult<FillInMiddle> AnswerService::fill_in_middle(const AroundMiddle& around) const {
  auto prompt = EncodeFillInMiddle(text_.tokenizer, around);
  if (prompt.ok()) return *std::move(prompt);
  if (prompt.status().code() != absl::StatusCode::kFailedPrecondition) {
    return std::unexpected(TextError(prompt.status(), "prompt"));
  }
  return std::unexpected(
      ApiError{.message = Message(prompt.status()), .param = "suffix", .code = "unsupported_parameter"});
}

std::optional<ApiError> AnswerService::check_tokens(const std::vector<int32_t>& prompt) const {
  if (prompt.empty()) {
    return ApiError{.message = "the prompt is empty; at least one token is needed", .code = "empty_prompt"};
  }
  const auto unknown =
      std::ranges::find_if(prompt, [&](int32_t id) { return id < 0 || id >= options_.vocabulary; });
  if (unknown == prompt.end()) return std::nullopt;
  const auto name = text_.tokenizer.token_name(*unknown);
  return ApiError{.message = fmt::format(
                      "token {} ('{}') at position {} of the prompt is beyond the model's "
                      "vocabulary of {} tokens: its tokenizer knows more tokens than the model; "
                      "leave that text out",
                      *unknown, name.ok() ? *name : "?", unknown - prompt.begin(), options_.vocabulary),
                  .code = "token_out_of_vocabulary"};
}

std::optional<ApiError> AnswerService::constrain(const std::optional<Structure>& structure,
                                                 AnswerOrder& order) {
  if (!structure.has_value()) return std::nullopt;
  auto constraint = grammars_.constraint(*structure);
  if (!constraint.has_value()) return std::move(constraint.error());
  order.constraint = *std::move(constraint);
  return std::nullopt;
}

ApiResult<int> AnswerService::priority_for(std::optional<int> asked, const std::string& caller) const {
  const CallerPriority allowed =
      options_.caller_priority ? options_.caller_priority(caller) : CallerPriority{};
  const int priority = asked.value_or(allowed.usual);
  if (priority >= allowed.best) return priority;
  return std::unexpected(ApiError{
      .message = fmt::format("'priority' must be from {} to {} with the API key '{}', got {}; lower ones are "
                             "for keys whose line in the server's --api-key-file says so",
                             allowed.best, kPriorityMax, caller, priority),
      .param = "priority",
      .code = "invalid_value"});
}

GenerationRequest AnswerService::generation(const AnswerOrder& order,
                                            const std::vector<int32_t>& prompt) const {
  GenerationRequest out{.id = order.id,
                        .prompt = prompt,
                        .max_tokens = order.max_tokens.value_or(std::numeric_limits<int64_t>::max()),
                        .eos_ids = order.stop_token_ids,
                        .deadline = Deadline::after(options_.request_deadline)};
  out.constraint = order.constraint;
  if (!order.ignore_eos || order.constraint != nullptr)
    out.eos_ids.insert(out.eos_ids.end(), options_.eos_ids.begin(), options_.eos_ids.end());
  // A tokenizer may have more end-of-text ids than the model: those never come.
  std::erase_if(out.eos_ids, [&](int32_t id) { return id < 0 || id >= options_.vocabulary; });
  out.min_tokens = order.min_tokens;
  return out;
}

std::optional<ApiError> AnswerService::record(const std::optional<RepeatKey>& key) const {
  if (key.has_value() && options_.records != nullptr && !options_.records->begin(*key)) {
    return ApiError{
        .status = 422,
        .message = "this Idempotency-Key came with another body before; send the same body, or a new key",
        .code = "idempotency_key_reused"};
  }
  return std::nullopt;
}

std::shared_ptr<RequestTrace> AnswerService::trace(const ResponseWriter& writer, int64_t prompt_tokens,
                                                   int choices) const {
  if (options_.tracer == nullptr) return nullptr;
  const RequestOrigin& origin = writer.origin();
  return options_.tracer->begin(origin.traceparent, {.name = origin.name,
                                                     .id = origin.id,
                                                     .model = options_.model_names.front(),
                                                     .prompt_tokens = prompt_tokens,
                                                     .choices = choices,
                                                     .received = origin.received,
                                                     .node_name = options_.node_name});
}

std::optional<ApiError> AnswerService::start(AnswerOrder order, std::unique_ptr<AnswerWriter> answer,
                                             const std::shared_ptr<ResponseWriter>& writer) {
  if (draining_) return ShuttingDown();
  const ApiResult<int> priority = priority_for(order.priority, writer->caller());
  if (!priority.has_value()) return priority.error();
  const std::optional<RepeatKey>& key = writer->repeat_key();
  if (auto wrong = record(key)) return wrong;
  order.sampling.seed = SeedFor(order.sampling, *writer);
  AnswerPlan plan{
      .id = order.id,
      .choices_per_prompt = order.choices_per_prompt,
      .chain = {.stop = order.stop, .min_tokens = order.min_tokens, .format = std::move(order.format)}};
  SamplingParams sampling = ResolveSampling(order.sampling, options_.sampling);
  std::vector<GenerationRequest> choices;
  for (const std::vector<int32_t>& prompt : order.prompts) {
    if (auto wrong = check_tokens(prompt)) {
      wrong->param = order.prompt_field;
      return wrong;
    }
    plan.prompt_tokens += std::ssize(prompt);
    for (int i = 0; i < order.choices_per_prompt; ++i) {
      sampling.choice = static_cast<uint32_t>(i);
      choices.push_back(generation(order, prompt));
      GenerationRequest& one = choices.back();
      one.sampling = sampling;
      one.priority = *priority;
      one.party = writer->caller();
      one.score_prompt = order.score_prompts && i == 0;
      if (key.has_value() && options_.records != nullptr)
        one.expected = options_.records->tokens(*key, static_cast<int>(choices.size()) - 1);
    }
  }
  plan.choices = static_cast<int>(choices.size());
  if (key.has_value() && options_.records != nullptr) {
    plan.note = [records = options_.records, key = *key](int choice, int64_t at,
                                                         std::span<const SampledToken> tokens) {
      records->note(key, choice, at, tokens);
    };
  }
  const int64_t prompt_tokens = plan.prompt_tokens;
  plan.request = writer->origin().id;
  plan.trace = trace(*writer, prompt_tokens, plan.choices);
  const std::shared_ptr<RequestTrace> traced = plan.trace;
  auto sink = std::make_shared<AnswerSink>(std::move(plan), text_.tokenizer, metrics_, std::move(answer));
  const auto id = scheduler_.submit(std::move(choices), std::move(sink));
  if (!id.ok()) {
    if (traced != nullptr) traced->end(id.status());
    return FromStatus(id.status(), order.prompt_field);
  }
  metrics_.count_prompt_tokens(prompt_tokens);
  writer->on_disconnect(scheduler_.canceller(*id));
  return std::nullopt;
}

}  // namespace shoal
