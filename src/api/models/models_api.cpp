#include "api/models/models_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/answer_service.h"
#include "api/answer/whole_writer.h"
#include "api/anthropic/writer.h"
#include "api/http/routing.h"
#include "api/http/text.h"
#include "api/json.h"
#include "api/ollama/writer.h"
#include "api/openai/response.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Answers with an error in the shape of the API that the path belongs to.
void RefuseAs(std::string_view path, ResponseWriter& writer, const ApiError& error) {
  if (path.starts_with("/api/")) return SendOllamaError(writer, error);
  if (path.starts_with("/v1/messages")) return SendMessageError(writer, error);
  SendError(writer, error);
}

/// Stops at the first of the keys.
class TopLevelReader final : public nlohmann::json_sax<Json> {
 public:
  explicit TopLevelReader(std::vector<std::string_view> keys) : keys_(std::move(keys)) {}
  std::optional<std::string> found;

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t& text) override {
    if (wanted_) found = std::move(text);
    return value();
  }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return !wanted_ && ++depth_ <= kJsonDepthMax; }
  bool end_object() override { return --depth_ > 0; }
  bool start_array(std::size_t) override { return !wanted_ && depth_ > 0 && ++depth_ <= kJsonDepthMax; }
  bool end_array() override { return --depth_ > 0; }
  bool key(string_t& name) override {
    wanted_ = depth_ == 1 && std::ranges::count(keys_, std::string_view(name)) > 0;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  bool value() const { return !wanted_ && depth_ > 0; }

  const std::vector<std::string_view> keys_;
  int depth_ = 0;
  bool wanted_ = false;  // The value that comes next is the one.
};

/// What the body of a request calls its model: "name" is the older word of Ollama's API.
std::vector<std::string_view> NameKeys(std::string_view path) {
  if (path.starts_with("/api/")) return {"model", "name"};
  return {"model"};
}

/// Why there is no name in a body, if not because the key is missing.
std::optional<ApiError> NoNameIn(const HttpRequest& request) {
  const auto body = ParseBody(request.body);
  if (!body.has_value()) return body.error();
  for (const std::string_view key : NameKeys(request.path)) {
    const auto value = body->find(key);
    if (value == body->end() || value->is_string()) continue;
    return ApiError{.message = fmt::format("'{}' must be a string, got {}", key, JsonTypeName(*value)),
                    .param = std::string(key),
                    .code = "invalid_type"};
  }
  return std::nullopt;
}

/// Routes of models' APIs whose GET and DELETE need no model.
constexpr std::array<std::string_view, 2> kWithoutModel = {"/v1/responses/*", "/api/version"};
/// POSTs that are for a model that is loaded: a question is not worth loading one, for which another may have to go.
constexpr std::array<std::string_view, 2> kOfLoaded = {"/cluster/plan", "/cluster/doctor"};
constexpr std::string_view kModelPath = "/v1/models/";

}  // namespace

std::optional<std::string> TopLevelText(std::string_view body, std::vector<std::string_view> keys) {
  TopLevelReader reader(std::move(keys));
  Json::sax_parse(body, &reader);
  return std::move(reader.found);
}

ModelsApi::ModelsApi(ModelsApiOptions options, ModelShelf& shelf)
    : options_(std::move(options)), shelf_(shelf), started_(UnixSeconds()) {}

std::vector<HttpRoute> ModelsApi::routes() {
  std::vector<HttpRoute> routes;
  const auto add = [&routes](const char* method, const char* path, HttpHandler handler) {
    routes.push_back({method, path, std::move(handler)});
  };
  add("GET", "/v1/models", [this](const HttpRequest&, const Writer& writer) { list(writer); });
  add("GET", "/v1/models/*",
      [this](const HttpRequest& request, const Writer& writer) { describe(request, writer); });
  add("POST", "/models/load",
      [this](const HttpRequest& request, const Writer& writer) { load(request, writer); });
  add("POST", "/models/unload",
      [this](const HttpRequest& request, const Writer& writer) { unload(request, writer); });
  add("GET", "/health", [this](const HttpRequest&, const Writer& writer) { health(writer); });
  routes.back().urgent = true;
  add("GET", "/metrics", [this](const HttpRequest&, const Writer& writer) { scrape(writer); });
  add("GET", "/api/tags", [this](const HttpRequest&, const Writer& writer) { ollama_tags(writer); });
  add("GET", "/api/ps", [this](const HttpRequest&, const Writer& writer) { ollama_running(writer); });
  const size_t own = routes.size();
  for (const HttpRoute& route : options_.model_routes) {
    const auto same = [&route](const HttpRoute& one) {
      return one.method == route.method && one.path == route.path;
    };
    if (std::any_of(routes.begin(), routes.begin() + static_cast<int64_t>(own), same)) continue;
    HttpRoute forwarded{.method = route.method, .path = route.path};
    forwarded.slow = route.slow;
    if (route.method == "POST" && std::ranges::count(kOfLoaded, route.path) == 0) {
      forwarded.handler = [this](const HttpRequest& request, const Writer& writer) {
        forward(request, writer);
      };
    } else if (std::ranges::count(kWithoutModel, route.path) > 0) {
      forwarded.handler = route.handler;
    } else {
      forwarded.handler = [this](const HttpRequest& request, const Writer& writer) { look(request, writer); };
    }
    routes.push_back(std::move(forwarded));
  }
  return routes;
}

std::optional<size_t> ModelsApi::find(std::string_view name) const {
  if (const auto index = shelf_.find(name)) return index;
  return shelf_.find(WithoutLatest(name));
}

ApiResult<size_t> ModelsApi::model_of(const HttpRequest& request) const {
  std::optional<std::string> name;
  if (request.method == "POST") name = TopLevelText(request.body, NameKeys(request.path));
  if (!name.has_value()) name = QueryValue(request.query, "model");
  if (name.has_value()) {
    if (const auto index = find(*name)) return *index;
  }
  // Programs that are made for Anthropic ask for the models that they know.
  const bool any =
      !name.has_value() || (request.path.starts_with("/v1/messages") && name->starts_with("claude"));
  if (any && options_.default_model.has_value()) return *options_.default_model;
  if (name.has_value()) return std::unexpected(unknown(*name));
  if (request.method == "POST") {
    if (auto wrong = NoNameIn(request)) return std::unexpected(*std::move(wrong));
  }
  return std::unexpected(
      ApiError{.status = 400,
               .message = fmt::format("'model' is missing, and this server has several: '{}'", names()),
               .param = "model",
               .code = "missing_required_parameter"});
}

ApiError ModelsApi::unknown(std::string_view name) const {
  return {.status = 404,
          .message = fmt::format("The model '{}' does not exist; this server has '{}'", name, names()),
          .param = "model",
          .code = "model_not_found"};
}

std::string ModelsApi::names() const {
  std::vector<std::string> names;
  for (size_t i = 0; i < shelf_.size(); ++i) names.push_back(shelf_.entry(i).name);
  return Join(names, "', '");
}

/// To the model that the request names, once it is loaded.
void ModelsApi::forward(const HttpRequest& request, const Writer& writer) {
  const auto index = model_of(request);
  if (!index.has_value()) return RefuseAs(request.path, *writer, index.error());
  shelf_.ask(*index, {.request = request,
                      .writer = writer,
                      .refuse = [path = request.path](ResponseWriter& to, const ApiError& error) {
                        RefuseAs(path, to, error);
                      }});
}

/// Looks at a model that is loaded: the one that is named, else the default, else the first.
void ModelsApi::look(const HttpRequest& request, const Writer& writer) {
  std::shared_ptr<LoadedModel> model;
  const bool posted = request.method == "POST";
  if (QueryValue(request.query, "model").has_value() ||
      (posted && TopLevelText(request.body, NameKeys(request.path)).has_value())) {
    const auto index = model_of(request);
    if (!index.has_value()) return RefuseAs(request.path, *writer, index.error());
    model = shelf_.loaded(*index);
  } else {
    if (options_.default_model.has_value()) model = shelf_.loaded(*options_.default_model);
    for (size_t i = 0; i < shelf_.size() && model == nullptr; ++i) model = shelf_.loaded(i);
  }
  if (model == nullptr) {
    return RefuseAs(request.path, *writer,
                    {.status = 503,
                     .message = fmt::format("no model is loaded that could answer {}; name a loaded one with "
                                            "?model=NAME, or load one with POST /models/load",
                                            request.path),
                     .type = "server_error",
                     .code = "model_not_loaded"});
  }
  for (const HttpRoute& route : model->routes()) {
    // HEAD is a GET, too.
    if (route.method == (posted ? "POST" : "GET") && HttpRouteMatches(route.path, request.path)) {
      return route.handler(request, writer);
    }
  }
}

Json ModelsApi::entry(size_t index) const {
  const ShelfEntry& said = shelf_.entry(index);
  const std::shared_ptr<LoadedModel> model = shelf_.loaded(index);
  Json json =
      model != nullptr
          ? model->openai_entry()
          : Json{{"id", said.name}, {"object", "model"}, {"created", started_}, {"owned_by", "shoal"}};
  if (!said.aliases.empty()) json["aliases"] = said.aliases;
  const ModelShelf::Status status = shelf_.status(index);
  // As llama-server's router says it.
  json["status"] = {{"value", Name(status.state)}};
  json["status"]["pinned"] = said.pinned;
  json["status"]["waiting_requests"] = status.waiting;
  if (!status.last_load.ok()) {
    // With requests that wait, it is why they do: others have its room.
    if (status.waiting == 0) json["status"]["failed"] = true;
    json["status"]["error"] = Message(status.last_load);
  }
  return json;
}

void ModelsApi::list(const Writer& writer) const {
  Json data = Json::array();
  for (size_t i = 0; i < shelf_.size(); ++i) data.push_back(entry(i));
  writer->send({.body = DumpJson({{"object", "list"}, {"data", std::move(data)}})});
}

void ModelsApi::describe(const HttpRequest& request, const Writer& writer) const {
  const std::string name = request.path.substr(kModelPath.size());
  const auto index = find(name);
  if (!index.has_value()) return SendError(*writer, unknown(name));
  writer->send({.body = DumpJson(entry(*index))});
}

/// model_of(), of an admin call.
ApiResult<size_t> ModelsApi::subject_of(const HttpRequest& request, ResponseWriter& writer) const {
  auto index = model_of(request);
  writer.set_subject({.target = index.has_value()
                                    ? shelf_.entry(*index).name
                                    : TopLevelText(request.body, NameKeys(request.path)).value_or("")});
  return index;
}

void ModelsApi::load(const HttpRequest& request, const Writer& writer) {
  const auto index = subject_of(request, *writer);
  if (!index.has_value()) return SendError(*writer, index.error());
  shelf_.ask(*index, {.request = {},
                      .writer = writer,
                      .refuse = [](ResponseWriter& to, const ApiError& error) { SendError(to, error); },
                      .then = [writer](LoadedModel&) { writer->send({.body = R"({"success":true})"}); }});
}

void ModelsApi::unload(const HttpRequest& request, const Writer& writer) {
  const auto index = subject_of(request, *writer);
  if (!index.has_value()) return SendError(*writer, index.error());
  if (shelf_.unload(*index)) return writer->send({.body = R"({"success":true})"});
  SendError(*writer, {.message = fmt::format("the model '{}' is not loaded", shelf_.entry(*index).name),
                      .param = "model",
                      .code = "model_not_loaded"});
}

/// OK unless a model that is up for its requests can't compute; models that are not loaded are well.
void ModelsApi::health(const Writer& writer) const {
  Json models = Json::object();
  bool ok = true;
  std::string reason;
  for (size_t i = 0; i < shelf_.size(); ++i) {
    const std::string& name = shelf_.entry(i).name;
    const std::shared_ptr<LoadedModel> model = shelf_.loaded(i);
    models[name] = Name(shelf_.status(i).state);
    if (model == nullptr) continue;
    const absl::Status engine = model->engine();
    if (engine.ok()) continue;
    ok = false;
    models[name] = "unavailable";
    reason += fmt::format("{}'{}': {}", reason.empty() ? "" : "; ", name, Message(engine));
  }
  Json json = {{"status", ok ? "ok" : "unavailable"}, {"models", std::move(models)}};
  if (!ok) json["reason"] = reason;
  writer->send({.status = ok ? 200 : 503, .body = DumpJson(json)});
}

void ModelsApi::scrape(const Writer& writer) const {
  std::vector<std::shared_ptr<LoadedModel>> models;
  std::vector<std::pair<std::string, Metrics*>> sources;
  for (size_t i = 0; i < shelf_.size(); ++i) {
    models.push_back(shelf_.loaded(i));
    if (models.back() != nullptr) sources.emplace_back(shelf_.entry(i).name, &models.back()->metrics());
  }
  writer->send(
      {.content_type = Metrics::kContentType, .body = Metrics::ScrapeAll(*options_.metrics, sources)});
}

void ModelsApi::ollama_tags(const Writer& writer) const {
  Json models = Json::array();
  for (size_t i = 0; i < shelf_.size(); ++i) {
    const ShelfEntry& said = shelf_.entry(i);
    const std::shared_ptr<LoadedModel> model = shelf_.loaded(i);
    const std::string name = said.name + ":latest";
    models.push_back(model != nullptr ? model->ollama_entry()
                                      : Json{{"name", name}, {"model", name}, {"size", said.bytes}});
  }
  writer->send({.body = DumpJson({{"models", std::move(models)}})});
}

void ModelsApi::ollama_running(const Writer& writer) const {
  Json models = Json::array();
  for (size_t i = 0; i < shelf_.size(); ++i) {
    const std::shared_ptr<LoadedModel> model = shelf_.loaded(i);
    if (model == nullptr) continue;
    if (auto running = model->ollama_running_entry()) models.push_back(*std::move(running));
  }
  writer->send({.body = DumpJson({{"models", std::move(models)}})});
}

}  // namespace shoal
