// GLM 4.5 and later, and their kin:
//   <tool_call>get_weather
//   <arg_key>city</arg_key>
//   <arg_value>Paris</arg_value>
//   </tool_call>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat GlmFormat() {
  const XmlCallsSyntax syntax = {.call_open = "",
                                 .name_close = "",
                                 .key_open = "<arg_key>",
                                 .key_close = "</arg_key>",
                                 .value_open = "<arg_value>",
                                 .value_close = "</arg_value>",
                                 .call_close = "</tool_call>"};
  const std::string open = "<tool_call>";
  // Some of these models write lines, others do not.
  return {.name = "glm",
          .recognized_by = {{"<arg_key>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .before_name = {},
                        .after_name = {Maybe("\n")},
                        .separator = {Maybe("\n")},
                        .closer = syntax.call_close,
                        .around_each = true,
                        .style = ArgumentStyle::kElements,
                        .before_value = {Maybe("\n")},
                        .after_value = {Maybe("\n")}}},
          .inner_marks = {syntax.key_open, syntax.key_close, syntax.value_open, syntax.value_close}};
}

}  // namespace shoal
