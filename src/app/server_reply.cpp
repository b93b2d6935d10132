#include "app/server_reply.h"

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr int64_t kCallMs = 10'000;

}  // namespace

nlohmann::json JsonOf(const HttpReply& reply) {
  nlohmann::json read;
  return ReadJson(reply.body, {}, &read).ok() ? read : nlohmann::json();
}

absl::Status RefusedBy(const HttpReply& reply) {
  const std::string said = TextOf(MemberOf(JsonOf(reply), "error"), "message");
  return FailedPrecondition("the server answered {}: {}", reply.status, said.empty() ? reply.body : said);
}

absl::StatusOr<std::string> FirstModel(const HttpClient& client) {
  ASSIGN_OR_RETURN(const HttpReply reply, client.get("/v1/models", Deadline::after_ms(kCallMs)));
  if (reply.status != 200)
    return Unavailable("GET /v1/models: the server answered {}: {}", reply.status, reply.body);
  std::string name = TextOf(FirstOf(JsonOf(reply), "data"), "id");
  if (name.empty())
    return Unavailable("GET /v1/models: expected a model, got '{}'; give --model", reply.body);
  return name;
}

}  // namespace shoal
