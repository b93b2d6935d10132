// Calls whose arguments are elements within elements, each tag behind a mark M:
//   M<tool_call>M<invoke name="NAME">M<city>ParisM</city>M<tags>M<item>aM</item>M</tags>M</invoke>M</tool_call>
#pragma once

#include <memory>
#include <string>

#include "text/output/tool_parser.h"

namespace shoal {

struct NestedCallsSyntax {
  std::string mark;   ///< In front of each tag.
  std::string block;  ///< The element around all calls.
  std::string item;   ///< The element of an array's item.

  std::string opener() const { return mark + "<" + block + ">"; }
  std::string closer() const { return mark + "</" + block + ">"; }
};

/// Arguments go out as JSON, each value when it is complete. The tool's schema says what an element is; where it says
/// nothing, elements of items are an array, other elements an object, and text is what it looks like.
std::unique_ptr<CallGrammar> MakeNestedCalls(NestedCallsSyntax syntax, const ToolSchemas& schemas);

}  // namespace shoal
