// Calls whose parameters are elements with plain text in them:
//   <function=NAME><parameter=KEY>VALUE</parameter></function>   and its kin.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/output/tool_parser.h"

namespace shoal {

struct XmlCallsSyntax {
  /// Begins a call; "": the opening marker does. If the opening marker equals it, a call has begun.
  std::string call_open;
  /// Ends a tool's name; "": the first space or '<' does, which is not part of it.
  std::string name_close;
  /// Ends the tag that has the name; "": the end of the name does.
  std::string tag_close = "";
  bool tag_has_attributes = false;
  std::string key_open, key_close;
  /// Begins a value after its key, and after attributes if there are any. "": the key's end does.
  std::string value_open;
  std::string value_close;
  std::string call_close;
  /// Each ends all calls; none: the end of a call does.
  std::vector<std::string> close = {};
  /// Values stand on lines of their own: one newline on each side is not part of them.
  bool framed = false;
  /// In the attributes: the value is text, or it is JSON. Where neither stands there, the tool's schema decides.
  /// Formats without such attributes have none at all.
  std::string text_attribute = "", json_attribute = "";
  /// Marks around a value within which `value_close` is text ("<![CDATA[", "]]>").
  std::string quote_open = "", quote_close = "";
};

/// Arguments go out as JSON. Values that the schema says are text go out as they come; others when they are complete,
/// as what they look like if the schema allows.
std::unique_ptr<CallGrammar> MakeXmlCalls(XmlCallsSyntax syntax, const ToolSchemas& schemas);

}  // namespace shoal
