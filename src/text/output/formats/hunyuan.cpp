// Hunyuan 3; its marks end in a word that the template sets:
//   <tool_calls:opensource>
//   <tool_call:opensource>get_weather<tool_sep:opensource>
//   <arg_key:opensource>city</arg_key:opensource>
//   <arg_value:opensource>Paris</arg_value:opensource>
//   </tool_call:opensource>
//   </tool_calls:opensource>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

ToolFormat HunyuanFormat() {
  return {.name = "hunyuan",
          .recognized_by = {{"<tool_sep{}>", ":opensource"}},
          .syntax = {.openers = {"<tool_calls:opensource>"}, .closers = {"</tool_calls:opensource>"}},
          .grammar =
              [](const ToolSchemas& schemas) {
                return MakeXmlCalls({.call_open = "<tool_call:opensource>",
                                     .name_close = "<tool_sep:opensource>",
                                     .key_open = "<arg_key:opensource>",
                                     .key_close = "</arg_key:opensource>",
                                     .value_open = "<arg_value:opensource>",
                                     .value_close = "</arg_value:opensource>",
                                     .call_close = "</tool_call:opensource>",
                                     .close = {"</tool_calls:opensource>"}},
                                    schemas);
              },
          .inner_marks = {"<tool_call:opensource>", "<tool_sep:opensource>", "<arg_key:opensource>",
                          "</arg_key:opensource>", "<arg_value:opensource>", "</arg_value:opensource>",
                          "</tool_call:opensource>"}};
}

}  // namespace shoal
