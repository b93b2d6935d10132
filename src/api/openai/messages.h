// The conversation of a chat request: checked field by field, and made ready for the chat template.
#pragma once

#include <optional>

#include "api/field_reader.h"
#include "api/json.h"

namespace shoal {

/// `messages` with each content as text (text parts joined by newlines, as other servers do) and the
/// arguments of tool calls as objects, which is how templates print them.
Json NormalizedMessages(const Json& messages, std::optional<ApiError>& error);

/// `tools` as they came, without no-op fields.
Json NormalizedTools(const Json& tools, std::optional<ApiError>& error);

}  // namespace shoal
