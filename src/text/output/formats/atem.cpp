// Muse:
//   <atem:function_calls>
//   <atem:invoke name="get_weather">
//   <atem:parameter name="city">Paris</atem:parameter>
//   </atem:invoke>
//   </atem:function_calls>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

ToolFormat AtemFormat() {
  return {.name = "atem",
          .recognized_by = {{"<atem:function_calls>"}},
          .syntax = {.openers = {"<atem:function_calls>"}, .closers = {"</atem:function_calls>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeXmlCalls({.call_open = "<atem:invoke name=\"",
                                 .name_close = "\"",
                                 .tag_close = ">",
                                 .key_open = "<atem:parameter name=\"",
                                 .key_close = "\"",
                                 .value_open = ">",
                                 .value_close = "</atem:parameter>",
                                 .call_close = "</atem:invoke>",
                                 .close = {"</atem:function_calls>"}},
                                schemas);
          }};
}

}  // namespace shoal
