// Requests of Ollama's API, in the words of /v1/chat/completions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "api/api_error.h"
#include "api/json.h"

namespace shoal {

struct OllamaRequest {
  std::optional<std::string> model;
  bool stream = true;
  std::string
      chat;  ///< The body of a chat completion request that means the same; without "model" and "stream".
  /// A prompt that is not to be put into the chat template.
  std::optional<std::string> raw;
  bool load_only = false;  ///< No message, no prompt: asks that the model be loaded, which it is.
};

ApiResult<OllamaRequest> ParseOllamaChat(std::string_view body);
ApiResult<OllamaRequest> ParseOllamaGenerate(std::string_view body);
/// POST /api/show: the name of the model.
ApiResult<std::string> ParseOllamaShow(std::string_view body);

}  // namespace shoal
