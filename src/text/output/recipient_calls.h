// Messages that name their recipient in a line of its own:
//   all\nHello.>>>get_weather\n{"city": "Paris"}
#pragma once

#include <memory>
#include <string>

#include "text/output/tool_parser.h"

namespace shoal {

struct RecipientCallsSyntax {
  /// The recipient of text for the user.
  std::string user;
};

/// Only the request's tools are recipients of calls.
std::unique_ptr<CallGrammar> MakeRecipientCalls(RecipientCallsSyntax syntax, const ToolSchemas& schemas);

}  // namespace shoal
