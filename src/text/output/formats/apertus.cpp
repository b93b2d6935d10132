// Apertus: <|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat ApertusFormat() {
  const JsonCallsSyntax syntax = {.closers = {"<|tools_suffix|>"}, .short_form = true};
  const std::string open = "<|tools_prefix|>";
  return {.name = "apertus",
          .recognized_by = {{"<|tools_prefix|>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"["},
                        .before_name = {"{\""},
                        .after_name = {"\": "},
                        .after_arguments = {"}"},
                        .separator = {", "},
                        .end = {"]"},
                        .closer = syntax.closers[0]}}};
}

}  // namespace shoal
