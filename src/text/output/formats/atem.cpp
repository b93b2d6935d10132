// Muse:
//   <atem:function_calls>
//   <atem:invoke name="get_weather">
//   <atem:parameter name="city">Paris</atem:parameter>
//   </atem:invoke>
//   </atem:function_calls>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat AtemFormat() {
  const XmlCallsSyntax syntax = {.call_open = "<atem:invoke name=\"",
                                 .name_close = "\"",
                                 .tag_close = ">",
                                 .key_open = "<atem:parameter name=\"",
                                 .key_close = "\"",
                                 .value_open = ">",
                                 .value_close = "</atem:parameter>",
                                 .call_close = "</atem:invoke>",
                                 .close = {"</atem:function_calls>"}};
  const std::string open = "<atem:function_calls>";
  return {.name = "atem",
          .recognized_by = {{"<atem:function_calls>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"\n"},
                        .before_name = {syntax.call_open},
                        .after_name = {syntax.name_close + syntax.tag_close + "\n"},
                        .after_arguments = {syntax.call_close},
                        .separator = {"\n"},
                        .end = {"\n"},
                        .closer = syntax.close[0],
                        .style = ArgumentStyle::kElements,
                        .after_value = {"\n"}}}};
}

}  // namespace shoal
