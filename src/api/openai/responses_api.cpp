#include "api/openai/responses_api.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "api/answer/whole_writer.h"
#include "api/json.h"
#include "api/openai/chat_order.h"
#include "api/openai/responses_request.h"
#include "api/openai/responses_writer.h"
#include "base/clock.h"

namespace shoal {
namespace {

constexpr std::string_view kPath = "/v1/responses/";
constexpr size_t kResponsesMax = 4096;
constexpr size_t kResponseBytesMax = 64 << 20;

std::string IdOf(const HttpRequest& request) { return request.path.substr(kPath.size()); }

ApiError Unknown(const std::string& id) {
  return {.status = 404,
          .message = fmt::format(
              "Response with id '{}' not found: it was not stored, or has made room for others", id),
          .code = "not_found"};
}

void Retrieve(ResponseStore& store, const std::string& id, ResponseWriter& writer) {
  auto entry = store.get(id);
  if (!entry.has_value()) return SendError(writer, Unknown(id));
  writer.send({.body = std::move(entry->body)});
}

void Remove(ResponseStore& store, const std::string& id, ResponseWriter& writer) {
  if (!store.erase(id)) return SendError(writer, Unknown(id));
  writer.send({.body = DumpJson({{"id", id}, {"object", "response"}, {"deleted", true}})});
}

}  // namespace

ResponsesApi::ResponsesApi(AnswerService& service, std::shared_ptr<ResponseStore> store)
    : service_(service), store_(std::move(store)) {}

std::shared_ptr<ResponseStore> ResponsesApi::MakeStore() {
  return std::make_shared<ResponseStore>(kResponsesMax, kResponseBytesMax);
}

std::vector<HttpRoute> ResponsesApi::RoutesOf(ResponsesApi* api,
                                              const std::shared_ptr<ResponseStore>& store) {
  return {{"POST", "/v1/responses",
           [api](const HttpRequest& request, const Writer& writer) { api->create(request, writer); }},
          {"GET", "/v1/responses/*",
           [store](const HttpRequest& request, const Writer& writer) {
             Retrieve(*store, IdOf(request), *writer);
           }},
          {"DELETE", "/v1/responses/*", [store](const HttpRequest& request, const Writer& writer) {
             Remove(*store, IdOf(request), *writer);
           }}};
}

void ResponsesApi::create(const HttpRequest& request, const Writer& writer) {
  auto parsed = ParseResponses(request.body, [this](const std::string& id) {
    auto entry = store_->get(id);
    return entry.has_value() ? std::optional(std::move(entry->messages)) : std::nullopt;
  });
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service_.check_model(parsed->model)) return SendError(*writer, *wrong);
  ResponseFormat format{.id = NewAnswerId("resp_", *writer),
                        .model = service_.model_names().front(),
                        .created = UnixSeconds(),
                        .echo = std::move(parsed->echo),
                        .custom_tools = std::move(parsed->custom_tools)};
  auto order = OrderOfChat(service_, parsed->chat, format.id);
  if (!order.has_value()) return SendError(*writer, order.error());
  if (parsed->store) {
    format.keep = [store = store_, messages = std::move(parsed->messages)](const Json& response) {
      // Joined as text: a conversation is long, and this is the scheduler's thread.
      std::string all = messages;  // "[...]"
      all.pop_back();
      if (all.size() > 1) all += ',';
      all += DumpJson(MessageOfOutput(response["output"])) + "]";
      store->put(response["id"].get<std::string>(), {.body = DumpJson(response), .messages = std::move(all)});
    };
  }
  auto answer = parsed->stream ? ResponseStreamWriter(std::move(format), writer)
                               : ResponseWholeWriter(std::move(format), writer);
  if (const auto error = service_.start(*std::move(order), std::move(answer), writer))
    SendError(*writer, *error);
}

}  // namespace shoal
