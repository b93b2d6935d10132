// Requests of the OpenAI API as typed values. Every field is honoured, accepted because it cannot change the answer,
// or refused with an error that names it (docs/api.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/answer/answer_service.h"
#include "api/api_error.h"
#include "api/openai/common_fields.h"
#include "api/structure/tool_grammar.h"

namespace shoal {

/// POST /v1/chat/completions.
struct ChatCompletionRequest {
  CommonFields common;
  Conversation conversation;  ///< No tools where tool_choice is "none".
  ToolChoice tool_choice;
};

/// Text, or token ids.
using PromptField = std::variant<std::string, std::vector<int32_t>>;

/// POST /v1/completions and POST /generate.
struct CompletionRequest {
  CommonFields common;
  std::vector<PromptField> prompts;  ///< At least one.
  int best_of = 1;                   ///< At least common.n.
  bool echo = false;
  bool token_limit_given = false;  ///< max_tokens was there, be it -1: else OpenAI's small default counts.
  std::string suffix;              ///< What follows the text that is asked for; empty where nothing is said.
};

/// The prompts of the field `name`: text, token ids, or an array of either; at least one.
std::vector<PromptField> ReadPrompts(FieldReader& fields, const RequestLimits& limits,
                                     const std::string& name);

ApiResult<ChatCompletionRequest> ParseChatCompletion(std::string_view body, const RequestLimits& limits);
ApiResult<CompletionRequest> ParseCompletion(std::string_view body, const RequestLimits& limits);
ApiResult<CompletionRequest> ParseGenerate(std::string_view body, const RequestLimits& limits);

}  // namespace shoal
