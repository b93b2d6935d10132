// Requests that turn text into tokens and back: llama-server's, and vLLM's where their shapes can be told apart.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/api_error.h"
#include "api/openai/common_fields.h"

namespace shoal {

/// llama-server's POST /tokenize: text, or text mixed with ids that stay as they are.
struct ContentToTokenize {
  std::vector<std::variant<std::string, int32_t>> parts;
  bool add_special = false;   ///< The special tokens that the model expects around a text, at the first part.
  bool parse_special = true;  ///< Names of control tokens in the text are these tokens.
  bool with_pieces = false;   ///< The answer has the text of each token, too.
};

/// vLLM's POST /tokenize of a text.
struct PromptToTokenize {
  std::string prompt;
  bool add_special = true;
};

/// vLLM's POST /tokenize of a conversation.
struct ChatToTokenize {
  std::string chat;  ///< The body of a chat completion request.
};

struct TokenizeRequest {
  std::optional<std::string> model;
  std::variant<ContentToTokenize, PromptToTokenize, ChatToTokenize> what;
  bool token_strings = false;  ///< vLLM's: the answer has the names of tokens in the vocabulary.
};

ApiResult<TokenizeRequest> ParseTokenize(std::string_view body, const RequestLimits& limits);

struct DetokenizeRequest {
  std::optional<std::string> model;
  std::vector<int32_t> tokens;
};

ApiResult<DetokenizeRequest> ParseDetokenize(std::string_view body, const RequestLimits& limits);

}  // namespace shoal
