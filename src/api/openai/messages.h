// The conversation of a chat request: checked, and made ready for the chat template. Clients replay what they were
// sent, and what other servers sent them: keys that nobody here knows are no reason to refuse a conversation.
#pragma once

#include <optional>
#include <string>

#include "api/field_reader.h"
#include "api/json.h"

namespace shoal {

/// A conversation as chat templates expect it: each content as text (text parts joined by newlines, as other servers
/// do), reasoning as "reasoning_content", the arguments of tool calls as objects.
struct NormalizedConversation {
  std::string messages;  ///< JSON.
  /// The same with {} for arguments that are no JSON object (cut off, say), for templates that can't take their
  /// text; empty where there are none.
  std::string messages_without_broken;
  /// The final message is one that the model could go on with: an assistant's, with text, that calls nothing.
  bool ends_with_assistant_text = false;
  bool continued = false;  ///< It says that it is to be continued ("prefix": true).
};

NormalizedConversation NormalizedMessages(const Json& messages, std::optional<ApiError>& error);

/// `tools` as they came, without keys that are hints to other servers.
Json NormalizedTools(const Json& tools, std::optional<ApiError>& error);

}  // namespace shoal
