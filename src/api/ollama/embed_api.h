// Ollama's POST /api/embed, and the older /api/embeddings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/embedding_service.h"
#include "api/http/server.h"

namespace shoal {

struct OllamaEmbedRequest {
  std::optional<std::string> model;
  std::vector<std::string> inputs;  ///< Empty: asks that the model be loaded, which it is.
  bool truncate = true;
  std::optional<int64_t> dimensions;
  std::optional<int> priority;
};

ApiResult<OllamaEmbedRequest> ParseOllamaEmbed(std::string_view body);
/// /api/embeddings: one "prompt".
ApiResult<OllamaEmbedRequest> ParseOllamaEmbeddings(std::string_view body);

class OllamaEmbedApi {
 public:
  /// `embeddings` must outlive it, and it the HttpServer that has its routes.
  explicit OllamaEmbedApi(EmbeddingService& embeddings) : embeddings_(embeddings) {}

  std::vector<HttpRoute> routes() { return RoutesOf(this); }
  /// Those of `api`; with nullptr to know which there are, of which none may be asked.
  static std::vector<HttpRoute> RoutesOf(OllamaEmbedApi* api);

 private:
  enum class Shape : uint8_t { kList, kOne };

  void answer(const ApiResult<OllamaEmbedRequest>& parsed, Shape shape,
              const std::shared_ptr<ResponseWriter>& writer);

  EmbeddingService& embeddings_;
};

}  // namespace shoal
