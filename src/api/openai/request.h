// Requests of the OpenAI API as typed values. Every field is honoured, accepted because its value changes
// nothing, or refused with an error that names it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "api/answer/sampling_fields.h"
#include "api/api_error.h"

namespace shoal {

/// What all generating endpoints share.
struct CommonFields {
  std::optional<std::string> model;
  SamplingFields sampling;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop;  ///< At most four, none empty.
  bool stream = false;
  bool include_usage = false;  ///< Only with stream.
};

/// POST /v1/chat/completions. The JSON texts go to the chat template.
struct ChatCompletionRequest {
  CommonFields common;
  std::string messages;         ///< Content as text; the arguments of tool calls as objects.
  std::string tools;            ///< Empty where absent, or where tool_choice is "none".
  std::string template_kwargs;  ///< Empty where absent.
};

/// POST /v1/completions and POST /generate. The prompt is text or token ids.
struct CompletionRequest {
  CommonFields common;
  std::variant<std::string, std::vector<int32_t>> prompt;
};

/// What the parser must know of the model.
struct RequestLimits {
  int32_t vocabulary = 0;  ///< Token ids are below it.
};

ApiResult<ChatCompletionRequest> ParseChatCompletion(std::string_view body, const RequestLimits& limits);
ApiResult<CompletionRequest> ParseCompletion(std::string_view body, const RequestLimits& limits);
ApiResult<CompletionRequest> ParseGenerate(std::string_view body, const RequestLimits& limits);

}  // namespace shoal
