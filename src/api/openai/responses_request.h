// Requests of /v1/responses, in the words of /v1/chat/completions.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "api/api_error.h"

namespace shoal {

struct ResponsesRequest {
  std::optional<std::string> model;
  bool stream = false;
  bool store = true;
  std::string
      chat;  ///< The body of a chat completion request that means the same; without "model" and "stream".
  std::string messages;  ///< Its conversation without the instructions: what a later request goes on from.
  std::string echo;  ///< The request's fields as a response repeats them, with defaults where it has none.
  /// Tools whose one argument is free text: a call of them has its own kind of item.
  std::set<std::string> custom_tools;
};

/// The conversation up to and with a response, as JSON, by its id; nothing where there is no such response (any more).
using EarlierMessages = std::function<std::optional<std::string>(const std::string& id)>;

ApiResult<ResponsesRequest> ParseResponses(std::string_view body, const EarlierMessages& earlier);

}  // namespace shoal
