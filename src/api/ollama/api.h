// Ollama's API of a served model: /api/chat, /api/generate, and what its clients ask of models.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/http/server.h"
#include "api/json.h"
#include "api/ollama/request.h"

namespace shoal {

/// What Ollama's clients are told of the model.
struct OllamaModel {
  std::string architecture;                                      ///< "qwen3_moe"
  std::string format;                                            ///< "safetensors" or "gguf"
  std::string digest;                                            ///< Equal for equal models.
  int64_t bytes = 0;                                             ///< Of its weights.
  std::function<int64_t()> context = [] { return int64_t{0}; };  ///< Positions; 0 before the model is loaded.
};

class OllamaApi {
 public:
  /// `service` must outlive it, and it the HttpServer that has its routes.
  OllamaApi(OllamaModel model, AnswerService& service);

  std::vector<HttpRoute> routes() { return RoutesOf(this); }
  /// Those of `api`; with nullptr to know which there are, of which none may be asked.
  static std::vector<HttpRoute> RoutesOf(OllamaApi* api);

  /// What /api/tags says of the model.
  Json entry() const;
  /// What /api/ps says of it; nothing before it is loaded.
  std::optional<Json> running_entry() const;

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  enum class Asked : uint8_t { kChat, kText };

  void answer(const ApiResult<OllamaRequest>& parsed, Asked asked, const Writer& writer);
  void tags(const Writer& writer) const;
  void show(const HttpRequest& request, const Writer& writer) const;
  void running(const Writer& writer) const;

  const OllamaModel model_;
  AnswerService& service_;
  const int64_t started_;  // Unix seconds.
};

}  // namespace shoal
