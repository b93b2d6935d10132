#include "api/openai/api.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "api/answer/whole_writer.h"
#include "api/json.h"
#include "api/openai/chat_writer.h"
#include "api/openai/completion_writer.h"
#include "base/clock.h"
#include "base/status.h"

namespace shoal {
namespace {

/// OpenAI's documented default of /v1/completions. Chats and /generate may use the rest of the context.
constexpr int64_t kCompletionTokensDefault = 16;

std::string ModelBody(const std::string& name, int64_t created) {
  Json json;
  json["id"] = name;
  json["object"] = "model";
  json["created"] = created;
  json["owned_by"] = "shoal";
  return DumpJson(json);
}

}  // namespace

OpenAiApi::OpenAiApi(OpenAiOptions options, AnswerService& service, Scheduler& scheduler, Metrics& metrics)
    : options_(std::move(options)),
      service_(service),
      scheduler_(scheduler),
      metrics_(metrics),
      started_(UnixSeconds()) {}

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
  add("POST", "/v1/chat/completions", &OpenAiApi::chat_completion);
  add("POST", "/v1/completions", &OpenAiApi::completion);
  add("POST", "/generate", &OpenAiApi::generate);
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
  const auto parsed = ParseChatCompletion(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->common.model)) return SendError(*writer, *wrong);
  auto prompt = service_.chat_prompt(
      {.messages = parsed->messages, .tools = parsed->tools, .kwargs = parsed->template_kwargs}, "messages");
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  ChatFormat format{.header = header("chatcmpl", parsed->common), .tokenizer = &service_.tokenizer()};
  AnswerOrder order{.id = format.header.id, .prompt_field = "messages", .format = std::move(prompt->format)};
  order.prompts.push_back(std::move(prompt->tokens));
  start(std::move(order), parsed->common,
        parsed->common.stream ? ChatStreamWriter(std::move(format), writer)
                              : ChatWholeWriter(std::move(format), writer),
        writer);
}

void OpenAiApi::completion(const HttpRequest& request, const Writer& writer) {
  auto parsed = ParseCompletion(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->common.model)) return SendError(*writer, *wrong);
  auto prompt = prompt_of(*parsed);
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  if (!parsed->common.max_tokens.has_value()) parsed->common.max_tokens = kCompletionTokensDefault;
  CompletionFormat format{.header = header("cmpl", parsed->common), .tokenizer = &service_.tokenizer()};
  AnswerOrder order{.id = format.header.id, .prompt_field = "prompt"};
  order.prompts.push_back(*std::move(prompt));
  start(std::move(order), parsed->common,
        parsed->common.stream ? CompletionStreamWriter(std::move(format), writer)
                              : CompletionWholeWriter(std::move(format), writer),
        writer);
}

void OpenAiApi::generate(const HttpRequest& request, const Writer& writer) {
  const auto parsed = ParseGenerate(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->common.model)) return SendError(*writer, *wrong);
  auto prompt = prompt_of(*parsed);
  if (!prompt.has_value()) return SendError(*writer, prompt.error());
  const AnswerHeader head = header("gen", parsed->common);
  AnswerOrder order{.id = head.id, .prompt_field = "prompt"};
  order.prompts.push_back(*std::move(prompt));
  start(std::move(order), parsed->common,
        parsed->common.stream ? GenerateStreamWriter(head, writer) : GenerateWholeWriter(head, writer),
        writer);
}

AnswerHeader OpenAiApi::header(const char* id_prefix, const CommonFields& common) const {
  return {.id = NewAnswerId(id_prefix),
          .model = service_.model_names().front(),
          .created = UnixSeconds(),
          .include_usage = common.include_usage};
}

ApiResult<std::vector<int32_t>> OpenAiApi::prompt_of(const CompletionRequest& request) const {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) return *ids;
  return service_.text_prompt(std::get<std::string>(request.prompt), "prompt");
}

void OpenAiApi::start(AnswerOrder order, const CommonFields& common, std::unique_ptr<AnswerWriter> answer,
                      const Writer& writer) {
  order.sampling = common.sampling;
  order.max_tokens = common.max_tokens;
  order.stop = common.stop;
  if (const auto error = service_.start(std::move(order), std::move(answer), writer)) {
    SendError(*writer, *error);
  }
}

void OpenAiApi::list_models(const HttpRequest&, const Writer& writer) const {
  std::string list;
  for (const std::string& name : service_.model_names()) {
    list += (list.empty() ? "" : ",") + ModelBody(name, started_);
  }
  writer->send({.body = fmt::format(R"({{"object":"list","data":[{}]}})", list)});
}

void OpenAiApi::describe_model(const HttpRequest& request, const Writer& writer) const {
  const std::string name = request.path.substr(std::string_view("/v1/models/").size());
  if (const auto unknown = service_.check_model(name)) return SendError(*writer, *unknown);
  writer->send({.body = ModelBody(name, started_)});
}

void OpenAiApi::health(const HttpRequest&, const Writer& writer) const {
  const SchedulerStats stats = scheduler_.stats();
  const bool draining = service_.draining();
  const bool ok = stats.engine.ok() && !draining;
  Json json;
  const std::optional<double> progress =
      !stats.engine.ok() && options_.load_progress ? options_.load_progress() : std::nullopt;
  json["status"] = draining ? "draining" : ok ? "ok" : progress.has_value() ? "loading" : "unavailable";
  json["model"] = service_.model_names().front();
  if (!stats.engine.ok()) json["reason"] = Message(stats.engine);
  if (progress.has_value()) {
    json["progress"] = std::floor(*progress * 1000) / 1000;
    json["reason"] = fmt::format("loading {:.0f} %: {}", std::floor(*progress * 100), Message(stats.engine));
  }
  if (draining) json["reason"] = ShuttingDown().message;
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
  json["blocks"] = {{"total", stats.blocks_total},
                    {"used", stats.blocks_used},
                    {"cached", stats.blocks_cached},
                    {"free", stats.blocks_free}};
  const PrefixCacheStats& prefixes = stats.prefix_cache;
  json["prefix_cache"] = {{"hits", prefixes.hits},
                          {"misses", prefixes.misses},
                          {"tokens_reused", prefixes.tokens_reused},
                          {"evictions", prefixes.evictions},
                          {"waits", prefixes.waits}};
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
