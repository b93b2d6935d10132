// Hunyuan 3; its marks end in a word that the template sets:
//   <tool_calls:opensource>
//   <tool_call:opensource>get_weather<tool_sep:opensource>
//   <arg_key:opensource>city</arg_key:opensource>
//   <arg_value:opensource>Paris</arg_value:opensource>
//   </tool_call:opensource>
//   </tool_calls:opensource>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat HunyuanFormat() {
  const XmlCallsSyntax syntax = {.call_open = "<tool_call:opensource>",
                                 .name_close = "<tool_sep:opensource>",
                                 .key_open = "<arg_key:opensource>",
                                 .key_close = "</arg_key:opensource>",
                                 .value_open = "<arg_value:opensource>",
                                 .value_close = "</arg_value:opensource>",
                                 .call_close = "</tool_call:opensource>",
                                 .close = {"</tool_calls:opensource>"}};
  const std::string open = "<tool_calls:opensource>";
  return {.name = "hunyuan",
          .recognized_by = {{"<tool_sep{}>", ":opensource"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"\n"},
                        .before_name = {syntax.call_open},
                        .after_name = {syntax.name_close + "\n"},
                        .after_arguments = {syntax.call_close},
                        .separator = {"\n"},
                        .end = {"\n"},
                        .closer = syntax.close[0],
                        .style = ArgumentStyle::kElements,
                        .before_value = {"\n"},
                        .after_value = {"\n"}}},
          .inner_marks = {syntax.call_open, syntax.name_close, syntax.key_open, syntax.key_close,
                          syntax.value_open, syntax.value_close, syntax.call_close}};
}

}  // namespace shoal
