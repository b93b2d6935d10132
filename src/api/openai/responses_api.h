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
  /// `service` must outlive it, and it the HttpServer that has its routes and the Scheduler. `store` may have the
  /// responses of other models, too; answers in flight outlive a server that stops, and share it.
  ResponsesApi(AnswerService& service, std::shared_ptr<ResponseStore> store);
  /// As large as a server's should be.
  static std::shared_ptr<ResponseStore> MakeStore();

  std::vector<HttpRoute> routes() { return RoutesOf(this, store_); }
  /// Those of `api`; with nullptr to know which there are, and to ask those of GET and DELETE, which need no model.
  static std::vector<HttpRoute> RoutesOf(ResponsesApi* api, const std::shared_ptr<ResponseStore>& store);

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  void create(const HttpRequest& request, const Writer& writer);

  AnswerService& service_;
  const std::shared_ptr<ResponseStore> store_;
};

}  // namespace shoal
