// OpenAI's /v1/responses.
#pragma once

#include <memory>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/http/server.h"
#include "api/openai/response_store.h"

namespace shoal {

class ResponsesApi {
 public:
  /// `service` must outlive it, and it the HttpServer that has its routes and the Scheduler.
  explicit ResponsesApi(AnswerService& service);

  std::vector<HttpRoute> routes();

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  void create(const HttpRequest& request, const Writer& writer);
  void retrieve(const HttpRequest& request, const Writer& writer) const;
  void remove(const HttpRequest& request, const Writer& writer) const;

  AnswerService& service_;
  /// Shared with the answers in flight, which outlive a server that stops.
  const std::shared_ptr<ResponseStore> store_;
};

}  // namespace shoal
