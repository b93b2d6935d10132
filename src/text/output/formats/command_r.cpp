// Command R7B and later:
//   <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}]<|END_ACTION|>
// Command R+:
//   Action:
//   ```json
//   [{"tool_name": "get_weather", "parameters": {"city": "Paris"}}]
//   ```
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat CommandRFormat() {
  const JsonCallsSyntax syntax = {.closers = {"<|END_ACTION|>"}};
  const std::string open = "<|START_ACTION|>";
  return {
      .name = "command-r",
      .recognized_by = {{"<|START_ACTION|>"}},
      .openers = {open},
      .calls = {syntax},
      .writings = {{.opener = open,
                    .begin = {"[\n    "},
                    .before_name = {R"({"tool_call_id": ")", OfRegex("[0-9]{1,3}"), R"(", "tool_name": ")"},
                    .after_name = ArgumentsMember("parameters"),
                    .after_arguments = {"}"},
                    .separator = {",\n    "},
                    .end = {"\n]"},
                    .closer = syntax.closers[0]}}};
}

ToolFormat CommandRPlusFormat() {
  const JsonCallsSyntax syntax = {.closers = {"```"}};
  const std::string open = "Action:\n```json";
  return {.name = "command-r-plus",
          .recognized_by = {{"Action:", "\"tool_name\""}},
          .openers = {open, "Action: ```json"},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"\n[\n    "},
                        .before_name = {"{\n        \"tool_name\": \""},
                        .after_name = {"\",\n        \"parameters\": "},
                        .after_arguments = {"\n    }"},
                        .separator = {",\n    "},
                        .end = {"\n]"},
                        .closer = syntax.closers[0]}}};
}

}  // namespace shoal
