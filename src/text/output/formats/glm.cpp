// GLM 4.5 and later, and their kin:
//   <tool_call>get_weather
//   <arg_key>city</arg_key>
//   <arg_value>Paris</arg_value>
//   </tool_call>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

ToolFormat GlmFormat() {
  return {.name = "glm",
          .recognized_by = {{"<arg_key>"}},
          .syntax = {.openers = {"<tool_call>"}, .closers = {"</tool_call>"}},
          .grammar =
              [](const ToolSchemas& schemas) {
                return MakeXmlCalls({.call_open = "",
                                     .name_close = "",
                                     .key_open = "<arg_key>",
                                     .key_close = "</arg_key>",
                                     .value_open = "<arg_value>",
                                     .value_close = "</arg_value>",
                                     .call_close = "</tool_call>"},
                                    schemas);
              },
          .inner_marks = {"<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}};
}

}  // namespace shoal
