// Granite 3: <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]
// Granite 4 writes as Hermes. Phi 4 mini ends the list with <|/tool_call|>.
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat GraniteFormat() {
  const JsonCallsSyntax syntax = {.closers = {"<|/tool_call|>", "</tool_call>"}};
  CallWriting open = {.opener = "<|tool_call|>",
                      .begin = {"["},
                      .before_name = NameMember("name"),
                      .after_name = ArgumentsMember("arguments"),
                      .after_arguments = {"}"},
                      .separator = {", "},
                      .end = {"]"}};
  CallWriting closed = open;  // Phi 4 mini
  closed.for_templates = {"<|/tool_call|>"};
  closed.closer = syntax.closers[0];
  return {.name = "granite",
          .recognized_by = {{"<|tool_call|>"}},
          .openers = {open.opener, "<tool_call>"},
          .calls = {syntax},
          .writings = {closed, open}};
}

}  // namespace shoal
