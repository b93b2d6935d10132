// What clients of llama-server, and of vLLM, ask besides OpenAI's API: tokens of texts, prompts of conversations, what
// stands between two texts, and what the server is like.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/http/server.h"
#include "api/llamacpp/text_request.h"
#include "sched/scheduler.h"

namespace shoal {

/// What GET /props tells, besides what the service knows.
struct LlamaOptions {
  std::string build;          ///< "shoal 0.1.0"
  std::string model_path;     ///< Of the model's folder, or its GGUF.
  std::string chat_template;  ///< "" where there is none.
  std::string bos_token;      ///< Names; "" where there is none.
  std::string eos_token;
  SamplingDefaults sampling;
  int sequences_max = 1;  ///< How many may be computed at once.
};

class LlamaApi {
 public:
  /// All must outlive it, and it must outlive the HttpServer that has its routes.
  LlamaApi(LlamaOptions options, AnswerService& service, const Scheduler& scheduler);

  std::vector<HttpRoute> routes() { return RoutesOf(this); }
  /// Those of `api`; with nullptr to know which there are, of which none may be asked.
  static std::vector<HttpRoute> RoutesOf(LlamaApi* api);

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  void tokenize(const HttpRequest& request, const Writer& writer) const;
  void detokenize(const HttpRequest& request, const Writer& writer) const;
  void apply_template(const HttpRequest& request, const Writer& writer) const;
  void infill(const HttpRequest& request, const Writer& writer);
  void props(const HttpRequest& request, const Writer& writer) const;
  void slots(const HttpRequest& request, const Writer& writer) const;

  ApiResult<std::string> tokens_body(const TokenizeRequest& request) const;
  ApiResult<std::vector<int32_t>> content_tokens(const ContentToTokenize& content) const;
  Json pieces_json(const std::vector<int32_t>& tokens) const;

  const LlamaOptions options_;
  AnswerService& service_;
  const Scheduler& scheduler_;
};

}  // namespace shoal
