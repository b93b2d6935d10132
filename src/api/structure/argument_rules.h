// Rules in Lark for the arguments of a call in notations other than JSON.
#pragma once

#include <string>
#include <vector>

#include "api/structure/call_rules.h"
#include "api/structure/value_grammar.h"
#include "text/output/tool_schemas.h"

namespace shoal {

/// What can't be enforced of a tool's parameters.
struct ArgumentRules {
  std::string expression;
  std::string refused;  ///< The first keyword; empty: all are enforced.
};

/// Elements of text: <parameter=KEY>VALUE</parameter>
ArgumentRules AddElements(const Json& parameters, const XmlCallsSyntax& syntax, const CallWriting& writing,
                          LarkText& lark);
/// Elements within elements.
ArgumentRules AddNested(const Json& parameters, const NestedCallsSyntax& syntax, LarkText& lark);
/// key=value, key=value
ArgumentRules AddPython(const Json& parameters, LarkText& lark);
/// {key:value,key:value}, with `quote` around strings.
ArgumentRules AddMarked(const Json& parameters, const std::string& quote, LarkText& lark);

/// A JSON object none of whose strings has one of `forbidden` in it.
ArgumentRules AddJsonWithout(const Json& parameters, const std::vector<std::string>& forbidden,
                             LarkText& lark);

}  // namespace shoal
