// Calls as JSON objects, {"name": ..., "arguments": {...}}: one, several, or a list of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/output/tool_parser.h"

namespace shoal {

struct JsonCallsSyntax {
  /// What ends the calls; text may also simply end.
  std::vector<std::string> closers;
  /// Only objects that name one of the request's tools are calls, as where nothing but the object marks a call.
  bool known_tools_only = false;
  /// {"get_weather": {...}} is a call, too: any key is a name.
  bool short_form = false;
};

/// Arguments that stand before the name are held back; those after it go out as they come. Keys: name; arguments,
/// parameters; id. An object {"type": "function", "function": {...}} is read, too. What else an object holds goes out
/// as content.
std::unique_ptr<CallGrammar> MakeJsonCalls(JsonCallsSyntax syntax, const ToolSchemas& schemas);

}  // namespace shoal
