// MiniMax M2:
//   <minimax:tool_call>
//   <invoke name="get_weather">
//   <parameter name="city">Paris</parameter>
//   </invoke>
//   </minimax:tool_call>
// M3, with a mark M before each tag: M<tool_call>M<invoke name="get_weather">M<city>ParisM</city>M</invoke>M</tool_call>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat MiniMaxM2Format() {
  const XmlCallsSyntax syntax = {.call_open = "<invoke name=\"",
                                 .name_close = "\"",
                                 .tag_close = ">",
                                 .key_open = "<parameter name=\"",
                                 .key_close = "\"",
                                 .value_open = ">",
                                 .value_close = "</parameter>",
                                 .call_close = "</invoke>",
                                 .close = {"</minimax:tool_call>"}};
  const std::string open = "<minimax:tool_call>";
  return {.name = "minimax-m2",
          .recognized_by = {{"<minimax:tool_call>"}},
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
                        .after_value = {"\n"}}},
          .inner_marks = {"<invoke", syntax.call_close, "<parameter", syntax.value_close}};
}

ToolFormat MiniMaxM3Format() {
  const NestedCallsSyntax syntax = {.mark = "]<]minimax[>[", .block = "tool_call", .item = "item"};
  return {.name = "minimax-m3",
          .recognized_by = {{"]<]minimax[>["}},
          .openers = {syntax.opener()},
          .calls = {syntax},
          .writings = {{.opener = syntax.opener(),
                        .begin = {"\n"},
                        .before_name = {syntax.mark + "<invoke name=\""},
                        .after_name = {"\">"},
                        .after_arguments = {syntax.mark + "</invoke>"},
                        .separator = {"\n"},
                        .end = {"\n"},
                        .closer = syntax.closer(),
                        .style = ArgumentStyle::kNested}},
          .inner_marks = {syntax.mark}};
}

}  // namespace shoal
