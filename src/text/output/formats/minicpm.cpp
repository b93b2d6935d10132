// MiniCPM 5: <function name="get_weather"><param name="city">Paris</param></function>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

ToolFormat MiniCpmFormat() {
  return {.name = "minicpm",
          .recognized_by = {{"<function name=\"", "<param name=\""}},
          .syntax = {.openers = {"<function name=\""}, .closers = {"</function>"}},
          .grammar =
              [](const ToolSchemas& schemas) {
                return MakeXmlCalls({.call_open = "",
                                     .name_close = "\"",
                                     .tag_close = ">",
                                     .key_open = "<param name=\"",
                                     .key_close = "\"",
                                     .value_open = ">",
                                     .value_close = "</param>",
                                     .call_close = "</function>",
                                     .quote_open = "<![CDATA[",
                                     .quote_close = "]]>"},
                                    schemas);
              },
          .inner_marks = {"<param", "</param>"}};
}

}  // namespace shoal
