// MiniCPM 5: <function name="get_weather"><param name="city">Paris</param></function>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat MiniCpmFormat() {
  const XmlCallsSyntax syntax = {.call_open = "",
                                 .name_close = "\"",
                                 .tag_close = ">",
                                 .key_open = "<param name=\"",
                                 .key_close = "\"",
                                 .value_open = ">",
                                 .value_close = "</param>",
                                 .call_close = "</function>",
                                 .quote_open = "<![CDATA[",
                                 .quote_close = "]]>"};
  const std::string open = "<function name=\"";
  return {.name = "minicpm",
          .recognized_by = {{"<function name=\"", "<param name=\""}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .before_name = {},
                        .after_name = {syntax.name_close + syntax.tag_close},
                        .separator = {"\n"},
                        .closer = syntax.call_close,
                        .around_each = true,
                        .style = ArgumentStyle::kElements,
                        .python_words = true}},
          .inner_marks = {"<param", syntax.value_close}};
}

}  // namespace shoal
