#include "api/openai/api.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "api/answer/whole_writer.h"
#include "api/field_reader.h"
#include "api/json.h"
#include "api/openai/chat_order.h"
#include "api/openai/chat_writer.h"
#include "api/openai/completion_writer.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// OpenAI's documented default of /v1/completions. Chats and /generate may use the rest of the context.
constexpr int64_t kCompletionTokensDefault = 16;

/// The answer to a request for no tokens, which is what is echoed.
void AnswerNothing(const AnswerOrder& order, AnswerWriter& answer) {
  Usage usage;
  for (const std::vector<int32_t>& prompt : order.prompts) usage.prompt_tokens += std::ssize(prompt);
  answer.admitted();
  const int choices = static_cast<int>(order.prompts.size()) * order.choices_per_prompt;
  for (int i = 0; i < choices; ++i) answer.end_choice(i, {}, {.reason = EndReason::kLength});
  answer.finish(usage);
}

/// What a question orders, for the audit log: "mini1=20 mini2=28".
std::string LayersText(const PlanQuestion& question) {
  std::vector<std::string> counts;
  for (const auto& [name, count] : question.layers) counts.push_back(fmt::format("{}={}", name, count));
  return Join(counts, " ");
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

std::vector<HttpRoute> OpenAiApi::RoutesOf(OpenAiApi* api) {
  std::vector<HttpRoute> routes;
  auto add = [api, &routes](const char* method, const char* path, auto member) {
    routes.push_back({method, path, [api, member](const HttpRequest& request, const Writer& writer) {
                        (api->*member)(request, writer);
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
  add("GET", "/cluster/experts", &OpenAiApi::cluster_experts);
  add("GET", "/cluster/events", &OpenAiApi::cluster_events);
  add("GET", "/cluster/links", &OpenAiApi::cluster_links);
  routes.back().slow = true;
  add("GET", "/cluster/logs", &OpenAiApi::cluster_logs);
  routes.back().slow = true;
  for (const bool now : {true, false}) {
    routes.push_back(
        {now ? "POST" : "GET", "/cluster/doctor",
         [api, now](const HttpRequest&, const Writer& writer) { api->cluster_doctor(writer, now); }});
    routes.back().slow = now;
  }
  add("POST", "/cluster/plan", &OpenAiApi::cluster_plan);
  routes.back().slow = true;
  for (const bool drained : {true, false}) {
    routes.push_back({"POST", drained ? "/cluster/drain" : "/cluster/undrain",
                      [api, drained](const HttpRequest& request, const Writer& writer) {
                        api->drain(request, writer, drained);
                      }});
  }
  add("GET", "/cache/stats", &OpenAiApi::cache_stats);
  add("GET", "/metrics", &OpenAiApi::scrape);
  return routes;
}

void OpenAiApi::chat_completion(const HttpRequest& request, const Writer& writer) {
  const auto parsed = ParseChatCompletion(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  const CommonFields& common = parsed->common;
  if (const auto wrong = service_.check_model(common.model)) return SendError(*writer, *wrong);
  ChatFormat format{.header = header("chatcmpl-", common, *writer),
                    .choices = common.n,
                    .tokenizer = &service_.tokenizer()};
  auto order = OrderOfChat(service_, *parsed, format.header.id);
  if (!order.has_value()) return SendError(*writer, order.error());
  start(*std::move(order),
        common.stream ? ChatStreamWriter(std::move(format), writer)
                      : ChatWholeWriter(std::move(format), writer),
        writer);
}

void OpenAiApi::completion(const HttpRequest& request, const Writer& writer) {
  auto parsed = ParseCompletion(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  CommonFields& common = parsed->common;
  if (const auto wrong = service_.check_model(common.model)) return SendError(*writer, *wrong);
  CompletionFormat format{.header = header("cmpl-", common, *writer),
                          .prompts = static_cast<int>(parsed->prompts.size()),
                          .n = common.n,
                          .best_of = parsed->best_of,
                          .tokenizer = &service_.tokenizer()};
  auto order = order_of(*parsed, format.header.id);
  if (!order.has_value()) return SendError(*writer, order.error());
  order->choices_per_prompt = parsed->best_of;
  // Ranking needs what is not shown.
  if (parsed->best_of > common.n && !format.header.logprobs) order->sampling.top_logprobs = 0;
  if (!parsed->token_limit_given) order->max_tokens = kCompletionTokensDefault;
  if (parsed->echo) format.echo = echoes(*parsed);
  if (parsed->echo && format.header.logprobs) {
    order->score_prompts = true;
    format.scored = order->prompts;
  }
  auto answer = common.stream ? CompletionStreamWriter(std::move(format), writer)
                              : CompletionWholeWriter(std::move(format), writer);
  start(*std::move(order), std::move(answer), writer);
}

void OpenAiApi::generate(const HttpRequest& request, const Writer& writer) {
  const auto parsed = ParseGenerate(request.body, {.vocabulary = service_.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->common.model)) return SendError(*writer, *wrong);
  const AnswerHeader head = header("gen-", parsed->common, *writer);
  auto order = order_of(*parsed, head.id);
  if (!order.has_value()) return SendError(*writer, order.error());
  auto answer =
      parsed->common.stream ? GenerateStreamWriter(head, writer) : GenerateWholeWriter(head, writer);
  start(*std::move(order), std::move(answer), writer);
}

ApiResult<AnswerOrder> OpenAiApi::order_of(const CompletionRequest& request, std::string id) {
  AnswerOrder order = OrderWithoutPrompt(request.common, std::move(id));
  if (auto wrong = add_prompts(request, order)) return std::unexpected(*std::move(wrong));
  if (auto wrong = service_.constrain(request.common.structure, order)) {
    return std::unexpected(*std::move(wrong));
  }
  return order;
}

AnswerHeader OpenAiApi::header(const char* id_prefix, const CommonFields& common,
                               const ResponseWriter& writer) const {
  return {.id = NewAnswerId(id_prefix, writer),
          .model = service_.model_names().front(),
          .created = UnixSeconds(),
          .include_usage = common.include_usage,
          .logprobs = common.sampling.top_logprobs != kNoLogprobs};
}

std::optional<ApiError> OpenAiApi::add_prompts(const CompletionRequest& request, AnswerOrder& order) const {
  for (const PromptField& prompt : request.prompts) {
    if (!request.suffix.empty()) {
      const auto* text = std::get_if<std::string>(&prompt);
      if (text == nullptr) {
        return ApiError{.message = "'suffix' needs prompts that are text, not token ids",
                        .param = "suffix",
                        .code = "invalid_value"};
      }
      auto middle = service_.fill_in_middle({.prefix = *text, .suffix = request.suffix});
      if (!middle.has_value()) return middle.error();
      order.prompts.push_back(std::move(middle->tokens));
      order.stop_token_ids.insert(order.stop_token_ids.end(), middle->end_ids.begin(), middle->end_ids.end());
    } else {
      auto tokens = PromptTokens(service_, prompt, "prompt");
      if (!tokens.has_value()) return tokens.error();
      order.prompts.push_back(*std::move(tokens));
    }
  }
  return std::nullopt;
}

std::vector<std::string> OpenAiApi::echoes(const CompletionRequest& request) const {
  std::vector<std::string> texts;
  for (const PromptField& prompt : request.prompts) {
    const auto* ids = std::get_if<std::vector<int32_t>>(&prompt);
    if (ids == nullptr) {
      texts.push_back(std::get<std::string>(prompt));
    } else {
      texts.push_back(service_.tokenizer().decode(*ids, /*skip_special=*/false).value_or(""));
    }
  }
  return texts;
}

void OpenAiApi::start(AnswerOrder order, std::unique_ptr<AnswerWriter> answer, const Writer& writer) {
  if (order.max_tokens == 0 && !order.score_prompts) return AnswerNothing(order, *answer);
  if (const auto error = service_.start(std::move(order), std::move(answer), writer)) {
    SendError(*writer, *error);
  }
}

void OpenAiApi::list_models(const HttpRequest&, const Writer& writer) const {
  writer->send({.body = DumpJson({{"object", "list"}, {"data", Json::array({entry()})}})});
}

void OpenAiApi::describe_model(const HttpRequest& request, const Writer& writer) const {
  const std::string name = request.path.substr(std::string_view("/v1/models/").size());
  if (const auto unknown = service_.check_model(name)) return SendError(*writer, *unknown);
  writer->send({.body = DumpJson(entry_of(name))});
}

Json OpenAiApi::entry() const { return entry_of(service_.model_names().front()); }

Json OpenAiApi::entry_of(const std::string& name) const {
  const int64_t context = service_.context();
  Json json;
  json["id"] = name;
  json["object"] = "model";
  json["created"] = started_;
  json["owned_by"] = "shoal";
  // As vLLM, OpenRouter and llama-server name it.
  const Json length = context > 0 ? Json(context) : Json(nullptr);
  json["max_model_len"] = length;
  json["context_length"] = length;
  json["meta"] = {{"n_ctx", length},
                  {"n_ctx_train", options_.trained_context},
                  {"n_vocab", service_.vocabulary()},
                  {"n_embd", options_.width}};
  return json;
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
  if (options_.nodes_out) {
    if (const std::vector<std::string> out = options_.nodes_out(); !out.empty()) json["nodes_out"] = out;
  }
  writer->send({.status = ok ? 200 : 503, .body = DumpJson(json)});
}

void OpenAiApi::drain(const HttpRequest& request, const Writer& writer, bool drained) const {
  const auto body = ParseBody(request.body);
  if (!body.has_value()) return SendError(*writer, body.error());
  std::optional<ApiError> error;
  FieldReader fields(*body, "", error);
  const std::string node = fields.required_text("node");
  writer->set_subject({.target = node});
  const std::optional<std::string> model = fields.text("model");
  fields.refuse_others();
  if (!error.has_value() && model.has_value()) error = service_.check_model(*model);
  if (error.has_value()) return SendError(*writer, *error);
  const absl::Status begun = options_.drain ? options_.drain(node, drained)
                                            : absl::UnimplementedError("this server has no other nodes");
  if (absl::IsFailedPrecondition(begun)) {  // As things are; later it may be otherwise.
    return SendError(*writer,
                     {.status = 409, .message = Message(begun), .param = "node", .code = "node_needed"});
  }
  if (!begun.ok()) return SendError(*writer, FromStatus(begun, "node"));
  writer->send({.body = R"({"success":true})"});
}

void OpenAiApi::cluster_experts(const HttpRequest&, const Writer& writer) const {
  writer->send({.body = options_.cluster_experts ? options_.cluster_experts() : "{}"});
}

void OpenAiApi::cluster_events(const HttpRequest& request, const Writer& writer) const {
  int64_t after = 0;
  for (const std::string& pair : Split(request.query, '&')) {
    if (!pair.starts_with("after=")) continue;
    const char* const end = pair.data() + pair.size();
    const auto [stopped, wrong] =
        std::from_chars(pair.data() + std::string_view("after=").size(), end, after);
    if (wrong == std::errc() && stopped == end && after >= 0) continue;
    return SendError(*writer,
                     {.message = fmt::format("'after' must be the id of an event, got {}", Quoted(pair)),
                      .param = "after",
                      .code = "invalid_value"});
  }
  writer->send({.body = options_.cluster_events ? options_.cluster_events(after)
                                                : std::string(R"({"last":0,"events":[]})")});
}

void OpenAiApi::cluster_plan(const HttpRequest& request, const Writer& writer) const {
  const auto question = ParsePlanQuestion(request.body);
  if (!question.has_value()) return SendError(*writer, question.error());
  writer->set_subject({.target = LayersText(*question), .changes = question->apply});
  if (!question->model.empty()) {
    if (const auto unknown = service_.check_model(question->model)) return SendError(*writer, *unknown);
  }
  absl::StatusOr<std::string> answer = options_.cluster_plan
                                           ? options_.cluster_plan(*question)
                                           : absl::UnimplementedError("this server makes no plans");
  if (answer.ok()) return writer->send({.body = *std::move(answer)});
  // Facts that no plan suits are the question's, not the server's.
  const absl::StatusCode code = answer.status().code();
  if (code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kFailedPrecondition ||
      code == absl::StatusCode::kNotFound)
    return SendError(*writer, {.status = 422, .message = Message(answer.status()), .code = "no_such_plan"});
  SendError(*writer, FromStatus(answer.status()));
}

void OpenAiApi::cluster_links(const HttpRequest&, const Writer& writer) const {
  writer->send({.body = options_.cluster_links ? options_.cluster_links() : R"({"links":[]})"});
}

void OpenAiApi::cluster_logs(const HttpRequest& request, const Writer& writer) const {
  const auto question = ParseLogQuestion(request.query);
  if (!question.has_value()) return SendError(*writer, question.error());
  absl::StatusOr<std::string> answer =
      options_.cluster_logs ? options_.cluster_logs(*question) : std::string(R"({"nodes":[]})");
  if (!answer.ok()) return SendError(*writer, FromStatus(answer.status()));
  writer->send({.body = *std::move(answer)});
}

void OpenAiApi::cluster_doctor(const Writer& writer, bool now) const {
  writer->set_subject({.target = "", .changes = false});
  absl::StatusOr<std::string> answer = options_.cluster_doctor
                                           ? options_.cluster_doctor(now)
                                           : absl::UnimplementedError("this server has no cluster");
  if (!answer.ok()) return SendError(*writer, FromStatus(answer.status()));
  writer->send({.body = *std::move(answer)});
}

void OpenAiApi::cluster_status(const HttpRequest&, const Writer& writer) const {
  writer->send({.body = options_.cluster_status ? options_.cluster_status() : "{}"});
}

void OpenAiApi::scrape(const HttpRequest&, const Writer& writer) const {
  writer->send({.content_type = Metrics::kContentType, .body = metrics_.scrape()});
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
                          {"waits", prefixes.waits},
                          {"kept", prefixes.kept}};
  const DiskTierStats& disk = stats.kv_disk;
  json["kv_disk"] = {{"active", disk.active},
                     {"blocks", disk.blocks},
                     {"bytes", disk.bytes},
                     {"hits", disk.hits},
                     {"tokens_restored", disk.tokens_restored},
                     {"failures", disk.failures},
                     {"passed_over", disk.passed_over},
                     {"dropped", disk.dropped},
                     {"errors", disk.errors}};
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
