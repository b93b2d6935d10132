// Muse:
//   <atem:function_calls>
//   <atem:invoke name="get_weather">
//   <atem:parameter name="city">Paris</atem:parameter>
//   </atem:invoke>
//   </atem:function_calls>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat AtemFormat() {
  const XmlCallsSyntax syntax = InvokeTags("atem:", {"</atem:function_calls>"});
  const std::string open = "<atem:function_calls>";
  return {.name = "atem",
          .recognized_by = {{"<atem:function_calls>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {InvokeWriting(syntax, open, syntax.close[0])}};
}

}  // namespace shoal
