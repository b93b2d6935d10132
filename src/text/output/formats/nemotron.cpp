// Nemotron Nano 2: <TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat NemotronFormat() {
  const JsonCallsSyntax syntax = {.closers = {"</TOOLCALL>"}};
  const std::string open = "<TOOLCALL>";
  return {.name = "nemotron",
          .recognized_by = {{"<TOOLCALL>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"["},
                        .before_name = NameMember("name"),
                        .after_name = ArgumentsMember("arguments"),
                        .after_arguments = {"}"},
                        .separator = {", "},
                        .end = {"]"},
                        .closer = syntax.closers[0]}}};
}

}  // namespace shoal
