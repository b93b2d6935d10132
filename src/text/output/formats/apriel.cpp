// Apriel and MiniMax M1: a list of objects, or one on each line, between <tool_calls> and </tool_calls>.
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat AprielFormat() {
  const JsonCallsSyntax syntax = {.closers = {"</tool_calls>"}};
  CallWriting list = {.for_templates = {"<tool_calls>["},
                      .opener = "<tool_calls>",
                      .begin = {"["},
                      .before_name = NameMember("name"),
                      .after_name = ArgumentsMember("arguments"),
                      .after_arguments = {"}"},
                      .separator = {", "},
                      .end = {"]"},
                      .closer = syntax.closers[0]};
  CallWriting lines = list;  // MiniMax M1
  lines.for_templates = {};
  lines.begin = lines.separator = lines.end = {"\n"};
  return {.name = "apriel",
          .recognized_by = {{"<tool_calls>["}, {"<tool_calls>", "\"name\""}},
          .openers = {list.opener},
          .calls = {syntax},
          .writings = {list, lines}};
}

}  // namespace shoal
