// Calls as Python writes them: [get_weather(city="Paris", days=2), now()].
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/output/tool_parser.h"

namespace shoal {

struct PythonCallsSyntax {
  /// What ends the calls; text may also simply end.
  std::vector<std::string> closers;
  /// Only the request's tools are called, as where nothing but the list marks a call.
  bool known_tools_only = false;
  /// Text after a tool's name that is not part of it: ".call".
  std::string suffix = "";
};

/// Arguments without a name get those of the tool's schema, in its order.
std::unique_ptr<CallGrammar> MakePythonCalls(PythonCallsSyntax syntax, const ToolSchemas& schemas);

}  // namespace shoal
