// The HTTP API of a server of several models: each request goes to the model that it names, lists have all.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/http/server.h"
#include "api/metrics.h"
#include "api/models/model_shelf.h"

namespace shoal {

/// The text of the first of `keys` that the JSON object `body` has at its top, read no further than that. Nothing
/// where there is none, it is no text, or the body is not JSON up to there.
std::optional<std::string> TopLevelText(std::string_view body, std::vector<std::string_view> keys);

struct ModelsApiOptions {
  /// The routes that each model has (LoadedModel::routes), of which those of GET and DELETE that need no model answer
  /// themselves.
  std::vector<HttpRoute> model_routes;
  std::optional<size_t> default_model;  ///< Of requests that name none.
  Metrics* metrics = nullptr;           ///< The server's own.
};

class ModelsApi {
 public:
  /// `shelf` must outlive it, and it the HttpServer that has its routes.
  ModelsApi(ModelsApiOptions options, ModelShelf& shelf);

  std::vector<HttpRoute> routes();

 private:
  using Writer = std::shared_ptr<ResponseWriter>;

  /// By name or alias, with or without ":latest".
  std::optional<size_t> find(std::string_view name) const;
  ApiError unknown(std::string_view name) const;
  /// "a', 'b", for messages.
  std::string names() const;
  /// The model that a request means: by its body, else by its query, else the default.
  ApiResult<size_t> model_of(const HttpRequest& request) const;
  ApiResult<size_t> subject_of(const HttpRequest& request, ResponseWriter& writer) const;
  void forward(const HttpRequest& request, const Writer& writer);
  void look(const HttpRequest& request, const Writer& writer);
  void list(const Writer& writer) const;
  void describe(const HttpRequest& request, const Writer& writer) const;
  void load(const HttpRequest& request, const Writer& writer);
  void unload(const HttpRequest& request, const Writer& writer);
  void health(const Writer& writer) const;
  void scrape(const Writer& writer) const;
  void ollama_tags(const Writer& writer) const;
  void ollama_running(const Writer& writer) const;
  Json entry(size_t index) const;

  const ModelsApiOptions options_;
  ModelShelf& shelf_;
  const int64_t started_;  // Unix seconds.
};

}  // namespace shoal
