// Hermes and Qwen 2.5 and 3, and many that follow them:
//   <tool_call>
//   {"name": "get_weather", "arguments": {"city": "Paris"}}
//   </tool_call>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat HermesFormat() {
  const JsonCallsSyntax syntax = {.closers = {"</tool_call>"}};
  const std::string open = "<tool_call>";
  return {.name = "hermes",
          // There are templates of SmolLM3 without any word of tools.
          .recognized_by = {{"<tool_call>"}, {"AI assistant named SmolLM"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"\n"},
                        .before_name = NameMember("name"),
                        .after_name = ArgumentsMember("arguments"),
                        .after_arguments = {"}"},
                        .separator = {"\n"},
                        .end = {"\n"},
                        .closer = syntax.closers[0],
                        .around_each = true}}};
}

}  // namespace shoal
