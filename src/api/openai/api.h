// The HTTP API of a served model: OpenAI's chat and completions, a plain /generate, and what operators ask.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/api_error.h"
#include "api/http/server.h"
#include "api/metrics.h"
#include "api/openai/answer_sink.h"
#include "api/openai/request.h"
#include "base/clock.h"
#include "sched/scheduler.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace shoal {

struct OpenAiOptions {
  std::vector<std::string> model_names;  ///< At least one; answers carry the first.
  int32_t vocabulary = 0;                ///< Number of logits.
  std::vector<int32_t> eos_ids;
  SamplingDefaults sampling;
  Duration request_deadline = std::chrono::seconds(600);
  /// The JSON of GET /cluster/status.
  std::function<std::string()> cluster_status;
  /// How much of the weights is loaded, 0 to 1; nothing where none are being loaded. May be empty.
  std::function<std::optional<double>()> load_progress;
};

/// The model's text side. `chat` is empty where the model has no chat template.
struct ServedText {
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat;
};

class OpenAiApi {
 public:
  /// All must outlive it, and it must outlive the HttpServer that has its routes.
  OpenAiApi(OpenAiOptions options, const ServedText& text, Scheduler& scheduler, Metrics& metrics);

  std::vector<HttpRoute> routes();

  /// From now on requests get 503, and /health says why. Those in progress go on. From any thread.
  void drain() { draining_ = true; }

  /// For HttpServerOptions::error_body.
  static std::string ErrorBodyOf(int status, const std::string& message);

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  void chat_completion(const HttpRequest& request, const Writer& writer);
  void completion(const HttpRequest& request, const Writer& writer);
  void generate(const HttpRequest& request, const Writer& writer);
  void list_models(const HttpRequest& request, const Writer& writer) const;
  void describe_model(const HttpRequest& request, const Writer& writer) const;
  void health(const HttpRequest& request, const Writer& writer) const;
  void cluster_status(const HttpRequest& request, const Writer& writer) const;
  void scrape(const HttpRequest& request, const Writer& writer) const;
  void cache_stats(const HttpRequest& request, const Writer& writer) const;

  std::optional<ApiError> check_model(const CommonFields& common) const;
  ApiResult<std::vector<int32_t>> prompt_tokens(const ChatCompletionRequest& request) const;
  ApiResult<std::vector<int32_t>> prompt_tokens(const CompletionRequest& request) const;
  /// That the model knows all tokens of a prompt: a tokenizer may have more (a fine-tune that added some).
  std::optional<ApiError> check_tokens(const std::vector<int32_t>& prompt) const;
  void start(AnswerKind kind, const CommonFields& common, std::vector<int32_t> prompt, const Writer& writer);

  const OpenAiOptions options_;
  const ServedText& text_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  const int64_t started_;  // Unix seconds.
  std::atomic<bool> draining_ = false;
};

}  // namespace shoal
