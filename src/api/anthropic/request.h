// Requests of Anthropic's messages API, in the words of /v1/chat/completions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/api_error.h"
#include "api/json.h"

namespace shoal {

struct MessagesRequest {
  std::optional<std::string> model;
  bool stream = false;
  std::string
      chat;  ///< The body of a chat completion request that means the same; without "model" and "stream".
};

/// POST /v1/messages and /v1/messages/count_tokens, whose body has fewer fields.
ApiResult<MessagesRequest> ParseMessages(std::string_view body);

}  // namespace shoal
