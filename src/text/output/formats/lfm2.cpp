// LFM2: <|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat Lfm2Format() {
  const PythonCallsSyntax syntax = {.closers = {"<|tool_call_end|>"}};
  const std::string open = "<|tool_call_start|>";
  return {.name = "lfm2",
          .recognized_by = {{"<|tool_call_start|>"}, {"<|tool_list_start|>"}, {"List of tools: ["}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"["},
                        .before_name = {},
                        .after_name = {"("},
                        .after_arguments = {")"},
                        .separator = {", "},
                        .end = {"]"},
                        .closer = syntax.closers[0],
                        .style = ArgumentStyle::kPython}}};
}

}  // namespace shoal
