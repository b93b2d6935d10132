#include "api/openai/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "api/json.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

/// OpenAI's documented default of /v1/completions. Chats and /generate may use the rest of the context.
constexpr int64_t kCompletionTokensDefault = 16;

std::string NewId(AnswerKind kind) {
  return fmt::format("{}-{:016x}", kind == AnswerKind::kChat ? "chatcmpl" : "cmpl", EntropySeed());
}

std::string ModelBody(const std::string& name, int64_t created) {
  Json json;
  json["id"] = name;
  json["object"] = "model";
  json["created"] = created;
  json["owned_by"] = "shoal";
  return DumpJson(json);
}

ApiError UnknownModel(const std::string& asked, const std::vector<std::string>& served) {
  return {
      .status = 404,
      .message = fmt::format("The model '{}' does not exist; this server has '{}'", asked, served.front()),
      .param = "model",
      .code = "model_not_found"};
}

ApiError ShuttingDown() {
  return {.status = 503,
          .message = "the server is shutting down; send the request again later, or to another",
          .type = "server_error",
          .code = "shutting_down"};
}

/// Where a prompt of this kind of request is.
const char* PromptField(AnswerKind kind) { return kind == AnswerKind::kChat ? "messages" : "prompt"; }

/// What a tokenizer or a template says of a text is the sender's fault unless it says otherwise.
ApiError TextError(const absl::Status& status, const char* param) {
  ApiError error = FromStatus(status);
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    error = {.status = 400,
             .message = "the model's chat template refuses the conversation: " + Message(status)};
  }
  if (error.status == 400) error.param = param;
  return error;
}

}  // namespace

OpenAiApi::OpenAiApi(OpenAiOptions options, const ServedText& text, Scheduler& scheduler, Metrics& metrics)
    : options_(std::move(options)),
      text_(text),
      scheduler_(scheduler),
      metrics_(metrics),
      started_(UnixSeconds()) {
  SHOAL_CHECK(!options_.model_names.empty());
  SHOAL_CHECK_GT(options_.vocabulary, 0);
}

std::string OpenAiApi::ErrorBodyOf(int status, const std::string& message) {
  return ErrorBody(FromHttp(status, message));
}

std::vector<HttpRoute> OpenAiApi::routes() {
  std::vector<HttpRoute> routes;
  auto add = [this, &routes](const char* method, const char* path, auto member) {
    routes.push_back({method, path, [this, member](const HttpRequest& request, const Writer& writer) {
                        (this->*member)(request, writer);
                      }});
  };
  auto add_work = [this, &routes](const char* path, auto member) {
    routes.push_back({"POST", path, [this, member](const HttpRequest& request, const Writer& writer) {
                        if (draining_) return SendError(*writer, ShuttingDown());
                        (this->*member)(request, writer);
                      }});
  };
  add_work("/v1/chat/completions", &OpenAiApi::chat_completion);
  add_work("/v1/completions", &OpenAiApi::completion);
  add_work("/generate", &OpenAiApi::generate);
  add("GET", "/v1/models", &OpenAiApi::list_models);
  add("GET", "/v1/models/*", &OpenAiApi::describe_model);
  add("GET", "/health", &OpenAiApi::health);
  routes.back().urgent = true;
  add("GET", "/cluster/status", &OpenAiApi::cluster_status);
  add("GET", "/cache/stats", &OpenAiApi::cache_stats);
  add("GET", "/metrics", &OpenAiApi::scrape);
  return routes;
}

void OpenAiApi::chat_completion(const HttpRequest& request, const Writer& writer) {
  const auto parsed = ParseChatCompletion(request.body, {.vocabulary = options_.vocabulary});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = check_model(parsed->common)) return SendError(*writer, *wrong);
  auto prompt = prompt_tokens(*parsed);
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  start(AnswerKind::kChat, parsed->common, *std::move(prompt), writer);
}

void OpenAiApi::completion(const HttpRequest& request, const Writer& writer) {
  auto parsed = ParseCompletion(request.body, {.vocabulary = options_.vocabulary});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = check_model(parsed->common)) return SendError(*writer, *wrong);
  auto prompt = prompt_tokens(*parsed);
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  if (!parsed->common.max_tokens.has_value()) parsed->common.max_tokens = kCompletionTokensDefault;
  start(AnswerKind::kCompletion, parsed->common, *std::move(prompt), writer);
}

void OpenAiApi::generate(const HttpRequest& request, const Writer& writer) {
  const auto parsed = ParseGenerate(request.body, {.vocabulary = options_.vocabulary});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = check_model(parsed->common)) return SendError(*writer, *wrong);
  auto prompt = prompt_tokens(*parsed);
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  start(AnswerKind::kGenerate, parsed->common, *std::move(prompt), writer);
}

std::optional<ApiError> OpenAiApi::check_model(const CommonFields& common) const {
  if (!common.model.has_value() || std::ranges::count(options_.model_names, *common.model) > 0)
    return std::nullopt;
  return UnknownModel(*common.model, options_.model_names);
}

ApiResult<std::vector<int32_t>> OpenAiApi::prompt_tokens(const ChatCompletionRequest& request) const {
  if (!text_.chat.has_value()) {
    return std::unexpected(
        ApiError{.message = "this model has no chat template; use /v1/completions", .param = "messages"});
  }
  const auto prompt = text_.chat->render(
      {.messages = request.messages, .tools = request.tools, .kwargs = request.template_kwargs});
  if (!prompt.ok()) return std::unexpected(TextError(prompt.status(), "messages"));
  // The template wrote BOS itself where the model wants it.
  auto ids = text_.tokenizer.encode(*prompt, {.add_special = false, .parse_special = true});
  if (!ids.ok()) return std::unexpected(TextError(ids.status(), "messages"));
  return *std::move(ids);
}

ApiResult<std::vector<int32_t>> OpenAiApi::prompt_tokens(const CompletionRequest& request) const {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) return *ids;
  auto ids = text_.tokenizer.encode(std::get<std::string>(request.prompt),
                                    {.add_special = true, .parse_special = true});
  if (!ids.ok()) return std::unexpected(TextError(ids.status(), "prompt"));
  return *std::move(ids);
}

std::optional<ApiError> OpenAiApi::check_tokens(const std::vector<int32_t>& prompt) const {
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

void OpenAiApi::start(AnswerKind kind, const CommonFields& common, std::vector<int32_t> prompt,
                      const Writer& writer) {
  if (auto wrong = check_tokens(prompt)) {
    wrong->param = PromptField(kind);
    return SendError(*writer, *wrong);
  }
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  const SchedulerStats stats = scheduler_.stats();
  if (!common.max_tokens.has_value() && stats.limits.context == 0) {
    return SendError(*writer, FromStatus(Unavailable("the cluster is not ready: {}", Message(stats.engine))));
  }
  // The rest of the context; 1 where there is none left, so that the refusal tells the numbers.
  const int64_t rest = std::max<int64_t>(1, PositionsMax(stats.limits) - prompt_length);
  AnswerPlan plan{.header = {.kind = kind,
                             .id = NewId(kind),
                             .model = options_.model_names.front(),
                             .created = UnixSeconds(),
                             .include_usage = common.include_usage},
                  .stream = common.stream,
                  .stop = common.stop,
                  .prompt_tokens = prompt_length};
  GenerationRequest generation{.id = plan.header.id,
                               .prompt = std::move(prompt),
                               .sampling = ResolveSampling(common.sampling, options_.sampling),
                               .max_tokens = common.max_tokens.value_or(rest),
                               .eos_ids = options_.eos_ids,
                               .deadline = Deadline::after(options_.request_deadline)};
  auto sink = std::make_shared<AnswerSink>(std::move(plan), text_.tokenizer, metrics_, writer);
  const auto id = scheduler_.submit(std::move(generation), std::move(sink));
  if (!id.ok()) {
    ApiError error = FromStatus(id.status());
    if (error.status == 400) {
      error.param = PromptField(kind);
      error.code = "context_length_exceeded";
    }
    return SendError(*writer, error);
  }
  metrics_.count_prompt_tokens(prompt_length);
  writer->on_disconnect([scheduler = &scheduler_, request = *id] { scheduler->cancel(request); });
}

void OpenAiApi::list_models(const HttpRequest&, const Writer& writer) const {
  std::string list;
  for (const std::string& name : options_.model_names) {
    list += (list.empty() ? "" : ",") + ModelBody(name, started_);
  }
  writer->send({.body = fmt::format(R"({{"object":"list","data":[{}]}})", list)});
}

void OpenAiApi::describe_model(const HttpRequest& request, const Writer& writer) const {
  const std::string name = request.path.substr(std::string_view("/v1/models/").size());
  if (std::ranges::count(options_.model_names, name) == 0) {
    return SendError(*writer, UnknownModel(name, options_.model_names));
  }
  writer->send({.body = ModelBody(name, started_)});
}

void OpenAiApi::health(const HttpRequest&, const Writer& writer) const {
  const SchedulerStats stats = scheduler_.stats();
  const bool ok = stats.engine.ok() && !draining_;
  Json json;
  const std::optional<double> progress =
      !stats.engine.ok() && options_.load_progress ? options_.load_progress() : std::nullopt;
  json["status"] = draining_ ? "draining" : ok ? "ok" : progress.has_value() ? "loading" : "unavailable";
  json["model"] = options_.model_names.front();
  if (!stats.engine.ok()) json["reason"] = Message(stats.engine);
  if (progress.has_value()) json["progress"] = std::floor(*progress * 1000) / 1000;
  if (draining_) json["reason"] = ShuttingDown().message;
  writer->send({.status = ok ? 200 : 503, .body = DumpJson(json)});
}

void OpenAiApi::cluster_status(const HttpRequest&, const Writer& writer) const {
  writer->send({.body = options_.cluster_status ? options_.cluster_status() : "{}"});
}

void OpenAiApi::scrape(const HttpRequest&, const Writer& writer) const {
  writer->send({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics_.scrape()});
}

void OpenAiApi::cache_stats(const HttpRequest&, const Writer& writer) const {
  const SchedulerStats stats = scheduler_.stats();
  Json json;
  json["blocks"] = {{"total", stats.blocks_total}, {"used", stats.blocks_used}, {"free", stats.blocks_free}};
  json["positions_per_block"] = stats.positions_per_block;
  json["context"] = stats.limits.context;
  json["requests"] = {{"running", stats.running}, {"waiting", stats.waiting}};
  json["steps"] = stats.steps;
  json["rows"] = stats.rows;
  json["tokens_generated"] = stats.tokens_generated;
  json["preemptions"] = stats.preemptions;
  json["engine_losses"] = stats.engine_losses;
  json["restarts"] = stats.restarts;
  writer->send({.body = DumpJson(json)});
}

}  // namespace shoal
