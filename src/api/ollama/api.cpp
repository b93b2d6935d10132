#include "api/ollama/api.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/whole_writer.h"
#include "api/http/text.h"
#include "api/json.h"
#include "api/ollama/request.h"
#include "api/ollama/writer.h"
#include "api/openai/chat_order.h"
#include "base/clock.h"

namespace shoal {
namespace {

/// The release of Ollama whose API this is; clients refuse to talk to old ones.
constexpr std::string_view kOllamaVersion = "0.13.0";
/// Ten years from any start: the model stays.
constexpr int64_t kStaysSeconds = int64_t{10} * 365 * 24 * 3600;

Json Details(const OllamaModel& model) {
  return {{"parent_model", ""},           {"format", model.format},
          {"family", model.architecture}, {"families", Json::array({model.architecture})},
          {"parameter_size", ""},         {"quantization_level", ""}};
}

Json Listed(const OllamaModel& model, const std::string& name) {
  return {{"name", name + ":latest"},
          {"model", name + ":latest"},
          {"size", model.bytes},
          {"digest", model.digest},
          {"details", Details(model)}};
}

/// Whether `more` in a request changes what the chat template writes.
bool TemplateReads(AnswerService& service, const Json& more) {
  Json chat = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})}};
  const auto without = OrderOfChat(service, DumpJson(chat), "");
  chat.update(more);
  const auto with = OrderOfChat(service, DumpJson(chat), "");
  return with.has_value() && (!without.has_value() || with->prompts != without->prompts);
}

Json Capabilities(AnswerService& service) {
  Json list = Json::array({"completion"});
  const Json function = {{"name", "f"}, {"parameters", {{"type", "object"}, {"properties", Json::object()}}}};
  const Json tool = {{"type", "function"}, {"function", function}};
  if (TemplateReads(service, {{"tools", Json::array({tool})}})) list.push_back("tools");
  if (TemplateReads(service, {{"chat_template_kwargs", {{"enable_thinking", false}}}}))
    list.push_back("thinking");
  return list;
}

}  // namespace

OllamaApi::OllamaApi(OllamaModel model, AnswerService& service)
    : model_(std::move(model)), service_(service), started_(UnixSeconds()) {}

std::vector<HttpRoute> OllamaApi::RoutesOf(OllamaApi* api) {
  const auto version = fmt::format(R"({{"version":"{}"}})", kOllamaVersion);
  const HttpHandler chat = [api](const HttpRequest& request, const Writer& writer) {
    api->answer(ParseOllamaChat(request.body), Asked::kChat, writer);
  };
  const HttpHandler generate = [api](const HttpRequest& request, const Writer& writer) {
    api->answer(ParseOllamaGenerate(request.body), Asked::kText, writer);
  };
  return {
      {"POST", "/api/chat", chat},
      {"POST", "/api/generate", generate},
      {"GET", "/api/tags", [api](const HttpRequest&, const Writer& writer) { api->tags(writer); }},
      {"POST", "/api/show",
       [api](const HttpRequest& request, const Writer& writer) { api->show(request, writer); }},
      {"GET", "/api/ps", [api](const HttpRequest&, const Writer& writer) { api->running(writer); }},
      {"GET", "/api/version",
       [version](const HttpRequest&, const Writer& writer) { writer->send({.body = version}); }},
  };
}

void OllamaApi::answer(const ApiResult<OllamaRequest>& parsed, Asked asked, const Writer& writer) {
  if (!parsed.has_value()) return SendOllamaError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->model)) return SendOllamaError(*writer, *wrong);
  const bool chat = asked == Asked::kChat;
  OllamaHeader header{.model = service_.model_names().front(), .chat = chat};
  if (parsed->load_only) return writer->send({.body = OllamaLoadedBody(header)});
  const std::string id = NewAnswerId("ollama-", *writer);
  auto order = parsed->raw.has_value() ? OrderOfText(service_, parsed->chat, *parsed->raw, id)
                                       : OrderOfChat(service_, parsed->chat, id);
  if (!order.has_value()) return SendOllamaError(*writer, order.error());
  if (!chat) order->prompt_field = "prompt";
  auto answer = parsed->stream ? OllamaStreamWriter(std::move(header), writer)
                               : OllamaWholeWriter(std::move(header), writer);
  if (const auto error = service_.start(*std::move(order), std::move(answer), writer))
    SendOllamaError(*writer, *error);
}

void OllamaApi::tags(const Writer& writer) const {
  writer->send({.body = DumpJson({{"models", Json::array({entry()})}})});
}

Json OllamaApi::entry() const {
  Json json = Listed(model_, service_.model_names().front());
  json["modified_at"] = UtcText(started_);
  return json;
}

void OllamaApi::show(const HttpRequest& request, const Writer& writer) const {
  const auto name = ParseOllamaShow(request.body);
  if (!name.has_value()) return SendOllamaError(*writer, name.error());
  if (const auto wrong = service_.check_model(*name)) return SendOllamaError(*writer, *wrong);
  const std::string& architecture = model_.architecture;
  Json info = {{"general.architecture", architecture}, {architecture + ".context_length", model_.context()}};
  writer->send({.body = DumpJson({{"modelfile", ""},
                                  {"parameters", ""},
                                  {"template", ""},
                                  {"details", Details(model_)},
                                  {"model_info", std::move(info)},
                                  {"capabilities", Capabilities(service_)},
                                  {"modified_at", UtcText(started_)}})});
}

void OllamaApi::running(const Writer& writer) const {
  Json models = Json::array();
  if (auto model = running_entry()) models.push_back(*std::move(model));
  writer->send({.body = DumpJson({{"models", std::move(models)}})});
}

std::optional<Json> OllamaApi::running_entry() const {
  const int64_t context = model_.context();
  if (context == 0) return std::nullopt;
  Json json = Listed(model_, service_.model_names().front());
  json["expires_at"] = UtcText(started_ + kStaysSeconds);
  json["size_vram"] = 0;
  json["context_length"] = context;
  return json;
}

}  // namespace shoal
