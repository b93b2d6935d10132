#include "api/anthropic/api.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/whole_writer.h"
#include "api/anthropic/request.h"
#include "api/anthropic/writer.h"
#include "api/openai/chat_order.h"

namespace shoal {
std::vector<HttpRoute> AnthropicApi::RoutesOf(AnthropicApi* api) {
  return {{"POST", "/v1/messages",
           [api](const HttpRequest& request, const Writer& writer) { api->messages(request, writer); }},
          {"POST", "/v1/messages/count_tokens",
           [api](const HttpRequest& request, const Writer& writer) { api->count_tokens(request, writer); }}};
}

std::optional<ApiError> AnthropicApi::check_model(const std::optional<std::string>& name) const {
  if (name.has_value() && name->starts_with("claude")) return std::nullopt;
  return service_.check_model(name);
}

void AnthropicApi::messages(const HttpRequest& request, const Writer& writer) {
  const auto parsed = ParseMessages(request.body);
  if (!parsed.has_value()) return SendMessageError(*writer, parsed.error());
  if (const auto wrong = check_model(parsed->model)) return SendMessageError(*writer, *wrong);
  MessageHeader header{.id = NewAnswerId("msg_", *writer), .model = service_.model_names().front()};
  auto order = OrderOfChat(service_, parsed->chat, header.id);
  if (!order.has_value()) return SendMessageError(*writer, order.error());
  header.prompt_tokens = std::ssize(order->prompts.front());
  auto answer = parsed->stream ? MessageStreamWriter(std::move(header), writer)
                               : MessageWholeWriter(std::move(header), writer);
  if (const auto error = service_.start(*std::move(order), std::move(answer), writer))
    SendMessageError(*writer, *error);
}

void AnthropicApi::count_tokens(const HttpRequest& request, const Writer& writer) const {
  const auto parsed = ParseMessages(request.body);
  if (!parsed.has_value()) return SendMessageError(*writer, parsed.error());
  if (const auto wrong = check_model(parsed->model)) return SendMessageError(*writer, *wrong);
  const auto tokens = TokensOfChat(service_, parsed->chat);
  if (!tokens.has_value()) return SendMessageError(*writer, tokens.error());
  writer->send({.body = fmt::format(R"({{"input_tokens":{}}})", tokens->size())});
}

}  // namespace shoal
