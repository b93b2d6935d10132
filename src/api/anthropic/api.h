// Anthropic's API of a served model: /v1/messages and /v1/messages/count_tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/http/server.h"

namespace shoal {

class AnthropicApi {
 public:
  /// `service` must outlive it, and it the HttpServer that has its routes.
  explicit AnthropicApi(AnswerService& service) : service_(service) {}

  std::vector<HttpRoute> routes() { return RoutesOf(this); }
  /// Those of `api`; with nullptr to know which there are, of which none may be asked.
  static std::vector<HttpRoute> RoutesOf(AnthropicApi* api);

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  void messages(const HttpRequest& request, const Writer& writer);
  void count_tokens(const HttpRequest& request, const Writer& writer) const;
  /// Programs that are made for Anthropic ask for models by the names that they know ("claude-..."): all of them mean
  /// the served model.
  std::optional<ApiError> check_model(const std::optional<std::string>& name) const;

  AnswerService& service_;
};

}  // namespace shoal
