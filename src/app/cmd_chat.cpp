#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "api/http/client.h"
#include "app/command.h"
#include "base/json.h"
#include "base/status.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

struct ChatFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  std::string system;
  int64_t max_tokens = 0;
  double temperature = -1;
};

/// Sends the conversation, prints the answer as it comes, and returns it.
absl::StatusOr<std::string> Ask(const HttpClient& client, const ChatFlags& flags, const Json& messages) {
  Json request = {{"messages", messages}, {"stream", true}};
  if (flags.max_tokens > 0) request["max_tokens"] = flags.max_tokens;
  if (flags.temperature >= 0) request["temperature"] = flags.temperature;
  std::string answer;
  std::string failed;
  const auto on_data = [&](std::string_view data) {
    if (data == "[DONE]") return true;
    const Json event = Json::parse(data, nullptr, false);
    if (const Json& error = MemberOf(event, "error"); !error.is_null()) {
      failed = TextOf(error, "message");
      if (failed.empty()) failed = "unknown error";
      return false;
    }
    const std::string piece = TextOf(MemberOf(FirstOf(event, "choices"), "delta"), "content");
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
    answer += piece;
    return true;
  };
  ASSIGN_OR_RETURN(const HttpReply reply,
                   client.post_events("/v1/chat/completions", request.dump(),
                                      Deadline::after(std::chrono::minutes(30)), on_data));
  if (!failed.empty()) return Unavailable("{}", failed);
  if (reply.status != 200) return Unavailable("the server answered {}: {}", reply.status, reply.body);
  std::fputc('\n', stdout);
  return answer;
}

absl::Status Chat(const ChatFlags& flags) {
  ASSIGN_OR_RETURN(HttpClient client, HttpClient::FromUrl(flags.url));
  client.set_api_key(flags.api_key);
  ASSIGN_OR_RETURN(const HttpReply models, client.get("/v1/models", Deadline::after_ms(5000)));
  const Json listed = Json::parse(models.body, nullptr, false);
  const std::string model = TextOf(FirstOf(listed, "data"), "id");
  fmt::print(stderr, "talking to {} at {}; an empty line or Ctrl-D ends\n", model.empty() ? "?" : model,
             flags.url);
  Json messages = Json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  std::string line;
  while (true) {
    fmt::print(stderr, "> ");
    if (!std::getline(std::cin, line) || line.empty()) return absl::OkStatus();
    messages.push_back({{"role", "user"}, {"content", line}});
    const absl::StatusOr<std::string> answer = Ask(client, flags, messages);
    if (!answer.ok()) {
      fmt::print(stderr, "\n{}\n", Message(answer.status()));
      messages.erase(messages.size() - 1);  // The conversation goes on where it was.
      continue;
    }
    messages.push_back({{"role", "assistant"}, {"content", *answer}});
  }
}

}  // namespace

Command AddChatCommand(Flags root) {
  auto flags = std::make_shared<ChatFlags>();
  Flags app = root.add_subcommand("chat", "Talk to a running server from the terminal");
  app.add_option("--url", flags->url, "The server (default http://127.0.0.1:8000)");
  app.add_option("--api-key", flags->api_key, "The key that the server wants, if any")
      .envname("SHOAL_API_KEY");
  app.add_option("--system", flags->system, "A system message to begin with");
  app.add_option("--max-tokens", flags->max_tokens,
                 "At most so many tokens an answer (default: the rest of the context)")
      .range(1, 1 << 30);
  app.add_option("--temperature", flags->temperature, "0 to 2 (default: the model's own)").range(0.0, 2.0);
  return {app, [flags] { return Chat(*flags); }};
}

}  // namespace shoal
