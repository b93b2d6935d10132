// Which tokens end what a model says.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace shoal {

/// What the text side of a model tells, ascending: eos_token of tokenizer_config.json (`config`, empty where
/// there is none), the token that the template writes behind an assistant's text, and special tokens of
/// well-known names ("<|im_end|>", "<|eot_id|>"). `chat` may be null. Returns InvalidArgument if `config` is
/// not JSON.
absl::StatusOr<std::vector<int32_t>> EndOfTextTokens(const Tokenizer& tokenizer, const ChatTemplate* chat,
                                                     std::string_view config);

}  // namespace shoal
