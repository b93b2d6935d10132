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
  const XmlCallsSyntax syntax = InvokeTags("", {"</minimax:tool_call>"});
  const std::string open = "<minimax:tool_call>";
  return {.name = "minimax-m2",
          .recognized_by = {{"<minimax:tool_call>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {InvokeWriting(syntax, open, syntax.close[0])},
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
