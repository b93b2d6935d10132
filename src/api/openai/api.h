// The HTTP API of a served model: OpenAI's chat and completions, a plain /generate, and what operators ask.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/api_error.h"
#include "api/http/server.h"
#include "api/json.h"
#include "api/log_question.h"
#include "api/metrics.h"
#include "api/openai/request.h"
#include "api/openai/response.h"
#include "api/plan_question.h"
#include "sched/scheduler.h"

namespace shoal {

struct OpenAiOptions {
  /// The JSON of GET /cluster/status.
  std::function<std::string()> cluster_status;
  /// The JSON of GET /cluster/experts. May be empty.
  std::function<std::string()> cluster_experts;
  /// The JSON of GET /cluster/events: what happened after the event of this id. May be empty.
  std::function<std::string(int64_t after)> cluster_events;
  /// The JSON of GET /cluster/links: what messages between nodes take, measured now where that was not done lately. May be
  /// empty.
  std::function<std::string()> cluster_links;
  /// The JSON of GET /cluster/logs. May be empty.
  std::function<absl::StatusOr<std::string>(const LogQuestion& question)> cluster_logs;
  /// The JSON of /cluster/doctor: of an examination now (POST), or of the last one (GET). May be empty.
  std::function<absl::StatusOr<std::string>(bool now)> cluster_doctor;
  /// The JSON of POST /cluster/plan. May be empty.
  std::function<absl::StatusOr<std::string>(const PlanQuestion& question)> cluster_plan;
  /// How much of the weights is loaded, 0 to 1; nothing where none are being loaded. May be empty.
  std::function<std::optional<double>()> load_progress;
  /// Nodes that the plan does without, by name. May be empty.
  std::function<std::vector<std::string>()> nodes_out;
  /// Has plans do without a node, by its name, or no longer do so; begins it, and returns at once. May be empty.
  std::function<absl::Status(const std::string& node, bool drained)> drain;
  int64_t trained_context = 0;  ///< Positions that the model was made for, whatever room its cluster has.
  int64_t width = 0;            ///< D
};

class OpenAiApi {
 public:
  /// All must outlive it, and it must outlive the HttpServer that has its routes.
  OpenAiApi(OpenAiOptions options, AnswerService& service, Scheduler& scheduler, Metrics& metrics);

  std::vector<HttpRoute> routes() { return RoutesOf(this); }
  /// Those of `api`; with nullptr to know which there are, of which none may be asked.
  static std::vector<HttpRoute> RoutesOf(OpenAiApi* api);

  /// For HttpServerOptions::error_body.
  static std::string ErrorBodyOf(int status, const std::string& message);

  /// What /v1/models says of the model.
  Json entry() const;

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  void chat_completion(const HttpRequest& request, const Writer& writer);
  void completion(const HttpRequest& request, const Writer& writer);
  void generate(const HttpRequest& request, const Writer& writer);
  void list_models(const HttpRequest& request, const Writer& writer) const;
  void describe_model(const HttpRequest& request, const Writer& writer) const;
  void health(const HttpRequest& request, const Writer& writer) const;
  void drain(const HttpRequest& request, const Writer& writer, bool drained) const;
  void cluster_status(const HttpRequest& request, const Writer& writer) const;
  void cluster_experts(const HttpRequest& request, const Writer& writer) const;
  void cluster_events(const HttpRequest& request, const Writer& writer) const;
  void cluster_links(const HttpRequest& request, const Writer& writer) const;
  void cluster_logs(const HttpRequest& request, const Writer& writer) const;
  void cluster_doctor(const Writer& writer, bool now) const;
  void cluster_plan(const HttpRequest& request, const Writer& writer) const;
  void scrape(const HttpRequest& request, const Writer& writer) const;
  void cache_stats(const HttpRequest& request, const Writer& writer) const;

  Json entry_of(const std::string& name) const;
  AnswerHeader header(const char* id_prefix, const CommonFields& common, const ResponseWriter& writer) const;
  /// The request's prompts as tokens.
  std::optional<ApiError> add_prompts(const CompletionRequest& request, AnswerOrder& order) const;
  /// All that the orders of texts to be continued have in common.
  ApiResult<AnswerOrder> order_of(const CompletionRequest& request, std::string id);
  std::vector<std::string> echoes(const CompletionRequest& request) const;
  void start(AnswerOrder order, std::unique_ptr<AnswerWriter> answer, const Writer& writer);

  const OpenAiOptions options_;
  AnswerService& service_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  const int64_t started_;  // Unix seconds.
};

}  // namespace shoal
