#include "api/answer/answer_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

/// What a tokenizer or a template says of a text is the sender's fault unless it says otherwise.
ApiError TextError(const absl::Status& status, const char* field) {
  ApiError error = FromStatus(status);
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    error = {.status = 400,
             .message = "the model's chat template refuses the conversation: " + Message(status)};
  }
  if (error.status == 400) error.param = field;
  return error;
}

}  // namespace

std::string NewAnswerId(std::string_view prefix) { return fmt::format("{}-{:016x}", prefix, EntropySeed()); }

ApiError ShuttingDown() {
  return {.status = 503,
          .message = "the server is shutting down; send the request again later, or to another",
          .type = "server_error",
          .code = "shutting_down"};
}

AnswerService::AnswerService(AnswerServiceOptions options, const ServedText& text, Scheduler& scheduler,
                             Metrics& metrics)
    : options_(std::move(options)), text_(text), scheduler_(scheduler), metrics_(metrics) {
  SHOAL_CHECK(!options_.model_names.empty());
  SHOAL_CHECK_GT(options_.vocabulary, 0);
}

std::optional<ApiError> AnswerService::check_model(const std::optional<std::string>& name) const {
  const auto& names = options_.model_names;
  if (!name.has_value() || std::ranges::count(names, *name) > 0) return std::nullopt;
  return ApiError{
      .status = 404,
      .message = fmt::format("The model '{}' does not exist; this server has '{}'", *name, names.front()),
      .param = "model",
      .code = "model_not_found"};
}

ApiResult<ChatPrompt> AnswerService::chat_prompt(ChatRequest chat, const char* field) const {
  chat.reshape = true;  // What a client replays is not to be mended by hand.
  if (!text_.chat.has_value()) {
    return std::unexpected(
        ApiError{.message = "this model has no chat template; use /v1/completions", .param = field});
  }
  // The template wrote BOS itself where the model wants it.
  auto prompt = text_.chat->encode(chat, text_.tokenizer);
  if (!prompt.ok()) return std::unexpected(TextError(prompt.status(), field));
  return ChatPrompt{
      .tokens = std::move(prompt->ids),
      .format = options_.chat_format ? options_.chat_format(chat, prompt->text) : OutputFormat{}};
}

ApiResult<std::vector<int32_t>> AnswerService::text_prompt(std::string_view text, const char* field) const {
  auto ids = text_.tokenizer.encode_prompt(text);
  if (!ids.ok()) return std::unexpected(TextError(ids.status(), field));
  return *std::move(ids);
}

std::optional<ApiError> AnswerService::check_tokens(const std::vector<int32_t>& prompt) const {
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

std::optional<ApiError> AnswerService::start(AnswerOrder order, std::unique_ptr<AnswerWriter> answer,
                                             const std::shared_ptr<ResponseWriter>& writer) {
  if (draining_) return ShuttingDown();
  const SchedulerStats stats = scheduler_.stats();
  if (!order.max_tokens.has_value() && stats.limits.context == 0) {
    return FromStatus(Unavailable("the cluster is not ready: {}", Message(stats.engine)));
  }
  AnswerPlan plan{.id = order.id,
                  .choices_per_prompt = order.choices_per_prompt,
                  .stop = std::move(order.stop),
                  .format = std::move(order.format)};
  SamplingParams sampling = ResolveSampling(order.sampling, options_.sampling);
  std::vector<GenerationRequest> choices;
  for (const std::vector<int32_t>& prompt : order.prompts) {
    if (auto wrong = check_tokens(prompt)) {
      wrong->param = order.prompt_field;
      return wrong;
    }
    const auto length = static_cast<int64_t>(prompt.size());
    plan.prompt_tokens += length;
    // The rest of the context; 1 where there is none left, so that the refusal tells the numbers.
    const int64_t rest = std::max<int64_t>(1, PositionsMax(stats.limits) - length);
    for (int i = 0; i < order.choices_per_prompt; ++i) {
      sampling.choice = static_cast<uint32_t>(i);
      choices.push_back({.id = order.id,
                         .prompt = prompt,
                         .sampling = sampling,
                         .max_tokens = order.max_tokens.value_or(rest),
                         .eos_ids = options_.eos_ids,
                         .deadline = Deadline::after(options_.request_deadline)});
    }
  }
  plan.choices = static_cast<int>(choices.size());
  const int64_t prompt_tokens = plan.prompt_tokens;
  auto sink = std::make_shared<AnswerSink>(std::move(plan), text_.tokenizer, metrics_, std::move(answer));
  const auto id = scheduler_.submit(std::move(choices), std::move(sink));
  if (!id.ok()) {
    ApiError error = FromStatus(id.status());
    if (error.status == 400) {
      error.param = order.prompt_field;
      error.code = "context_length_exceeded";
    }
    return error;
  }
  metrics_.count_prompt_tokens(prompt_tokens);
  writer->on_disconnect([scheduler = &scheduler_, request = *id] { scheduler->cancel(request); });
  return std::nullopt;
}

}  // namespace shoal
