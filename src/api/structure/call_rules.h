// Rules in Lark for calls of tools as a model's format writes them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/json.h"
#include "api/structure/lark_text.h"
#include "text/output/call_syntax.h"

namespace shoal {

/// A tool as it may be called.
struct CallableTool {
  std::string name;
  const Json* parameters = nullptr;  ///< The schema of its arguments; null: it has none.
  bool strict = false;               ///< What can't be enforced is an error.
};

/// The format that calls are written in.
struct CallFormat {
  std::string_view name;
  const CallWriting* writing = nullptr;
  /// How the format's parser reads them; null: as JSON.
  const CallsSyntax* syntax = nullptr;
  /// Of JSON: marks that the parser finds within strings, too.
  std::vector<std::string> forbidden = {};
};

/// The schema of a tool's arguments: an object, also where it does not say so.
Json ArgumentsSchema(const Json* parameters);

/// Adds rules of calls of `tools`, and returns an expression of all that follows the first opening marker. A 400: a
/// tool's name, or the parameters of a strict one, can't be enforced in this format.
ApiResult<std::string> AddCalls(const std::vector<CallableTool>& tools, const CallFormat& format,
                                bool several, LarkText& lark);

}  // namespace shoal
