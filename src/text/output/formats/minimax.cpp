// MiniMax M2:
//   <minimax:tool_call>
//   <invoke name="get_weather">
//   <parameter name="city">Paris</parameter>
//   </invoke>
//   </minimax:tool_call>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

ToolFormat MiniMaxM2Format() {
  return {.name = "minimax-m2",
          .recognized_by = {{"<minimax:tool_call>"}},
          .syntax = {.openers = {"<minimax:tool_call>"}, .closers = {"</minimax:tool_call>"}},
          .grammar =
              [](const ToolSchemas& schemas) {
                return MakeXmlCalls({.call_open = "<invoke name=\"",
                                     .name_close = "\"",
                                     .tag_close = ">",
                                     .key_open = "<parameter name=\"",
                                     .key_close = "\"",
                                     .value_open = ">",
                                     .value_close = "</parameter>",
                                     .call_close = "</invoke>",
                                     .close = {"</minimax:tool_call>"}},
                                    schemas);
              },
          .inner_marks = {"<invoke", "</invoke>", "<parameter", "</parameter>"}};
}

}  // namespace shoal
