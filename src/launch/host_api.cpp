// What a HostAgent asks of the API on its machine.
#include <poll.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/http/client.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/status.h"
#include "launch/host_agent.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

constexpr int64_t kHealthMs = 3000;
constexpr int64_t kLookMs = 200;
constexpr int kTokensMax = 48;

absl::StatusOr<HttpClient> ClientOf(const HostOrder& order) {
  ASSIGN_OR_RETURN(HttpClient client, HttpClient::FromUrl(order.api));
  client.set_api_key(order.api_key);
  return client;
}

/// What a server says of why it does not serve yet.
std::string WhyNot(const HttpReply& reply) {
  Json said;
  const std::string reason = ReadJson(reply.body, JsonLimits{}, &said).ok() ? TextOf(said, "reason") : "";
  return reason.empty() ? fmt::format("/health answers {}", reply.status) : reason;
}

/// The text in an event of a chat or of a completion.
std::string PieceOf(const Json& event) {
  if (!event.is_object() || !event.contains("choices") || !event["choices"].is_array() ||
      event["choices"].empty())
    return "";
  const Json& choice = event["choices"][0];
  for (const Json::json_pointer& place : {Json::json_pointer("/delta/content"), Json::json_pointer("/text"),
                                          Json::json_pointer("/delta/reasoning_content")}) {
    if (choice.contains(place) && choice[place].is_string()) return choice[place];
  }
  return "";
}

void NoteEvent(std::string_view data, int64_t began_ns, Measurement& measured, std::string& failed) {
  Json event;
  if (data == "[DONE]" || !ReadJson(data, JsonLimits{}, &event).ok() || !event.is_object()) return;
  if (event.contains("error")) failed = event["error"].dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string piece = PieceOf(event);
  if (!piece.empty() && measured.first_token_ms == 0) {
    measured.first_token_ms = static_cast<double>(NowNs() - began_ns) * 1e-6;
  }
  measured.answer += piece;
  const Json::json_pointer tokens("/usage/completion_tokens");
  if (event.contains(tokens) && event[tokens].is_number_unsigned()) measured.tokens = event[tokens];
}

}  // namespace

absl::Status HostAgent::health(const HostOrder& order, const Place& place, HostReply& reply) const {
  ASSIGN_OR_RETURN(const HttpClient client, ClientOf(order));
  const Deadline deadline = Deadline::after_ms(order.timeout_ms);
  std::string told;
  while (true) {
    const auto answer = client.get("/health", Deadline::min(deadline, Deadline::after_ms(kHealthMs)));
    if (answer.ok() && answer->status == 200) {
      reply.http_status = 200;
      reply.body = answer->body;
      return absl::OkStatus();
    }
    const std::string why = answer.ok() ? WhyNot(*answer) : Message(answer.status());
    if (why != told) options_.emit({.kind = HostEvent::Kind::kProgress, .text = why});
    told = why;
    reply.processes.clear();
    for (const HostProcess& process : order.processes) {
      reply.processes.push_back(report_of(process, place));
      if (reply.processes.back().state == HostProcessState::kRunning) continue;
      return Unavailable("'{}' has ended", process.id);
    }
    if (deadline.expired()) return DeadlineExceeded("not serving yet: {}", why);
    poll(nullptr, 0, static_cast<int>(std::min(kLookMs, deadline.remaining_ms())));
  }
}

absl::Status HostAgent::fetch(const HostOrder& order, HostReply& reply) const {
  ASSIGN_OR_RETURN(const HttpClient client, ClientOf(order));
  ASSIGN_OR_RETURN(HttpReply answer, client.get(order.path, Deadline::after_ms(order.timeout_ms)));
  reply.http_status = answer.status;
  reply.body = std::move(answer.body);
  return absl::OkStatus();
}

absl::Status HostAgent::measure(const HostOrder& order, HostReply& reply) const {
  ASSIGN_OR_RETURN(const HttpClient client, ClientOf(order));
  const Json common = {{"stream", true},
                       {"temperature", 0},
                       {"max_tokens", kTokensMax},
                       {"stream_options", {{"include_usage", true}}}};
  Json chat = common;
  chat["messages"] = Json::array({Json{{"role", "user"}, {"content", order.path}}});
  Json completion = common;  // Of a model without a chat template.
  completion["prompt"] = order.path;
  const Deadline deadline = Deadline::after_ms(order.timeout_ms);
  for (const auto& [path, request] :
       {std::pair<std::string, Json>("/v1/chat/completions", chat), {"/v1/completions", completion}}) {
    const int64_t began_ns = NowNs();
    Measurement measured;
    std::string failed;
    ASSIGN_OR_RETURN(const HttpReply answer,
                     client.post_events(path, request.dump(), deadline, [&](std::string_view data) {
                       NoteEvent(data, began_ns, measured, failed);
                       return failed.empty();
                     }));
    if (answer.status == 400 && path != "/v1/completions") continue;
    reply.http_status = answer.status;
    if (answer.status != 200) return Unavailable("POST {} answers {}: {}", path, answer.status, answer.body);
    if (!failed.empty()) return Unavailable("POST {}: the answer ended with an error: {}", path, failed);
    measured.total_ms = static_cast<double>(NowNs() - began_ns) * 1e-6;
    reply.measurement = std::move(measured);
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace shoal
