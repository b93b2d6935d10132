// OpenAI's POST /v1/embeddings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/embedding_service.h"
#include "api/http/server.h"
#include "api/openai/request.h"

namespace shoal {

struct EmbeddingsRequest {
  std::optional<std::string> model;
  std::vector<PromptField> inputs;  ///< At least one.
  enum class Encoding : uint8_t { kFloat, kBase64 };
  Encoding encoding = Encoding::kFloat;
  std::optional<int64_t> dimensions;
  std::optional<int> priority;
};

ApiResult<EmbeddingsRequest> ParseEmbeddings(std::string_view body, const RequestLimits& limits);

class EmbeddingsApi {
 public:
  /// `embeddings` must outlive it, and it the HttpServer that has its routes.
  explicit EmbeddingsApi(EmbeddingService& embeddings) : embeddings_(embeddings) {}

  std::vector<HttpRoute> routes() { return RoutesOf(this); }
  /// Those of `api`; with nullptr to know which there are, of which none may be asked.
  static std::vector<HttpRoute> RoutesOf(EmbeddingsApi* api);

 private:
  void answer(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer);

  EmbeddingService& embeddings_;
};

}  // namespace shoal
