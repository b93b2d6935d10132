// Command R7B and later:
//   <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}]<|END_ACTION|>
// Command R+:
//   Action:
//   ```json
//   [{"tool_name": "get_weather", "parameters": {"city": "Paris"}}]
//   ```
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat CommandRFormat() {
  return {.name = "command-r",
          .recognized_by = {{"<|START_ACTION|>"}},
          .syntax = {.openers = {"<|START_ACTION|>"}, .closers = {"<|END_ACTION|>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeJsonCalls({.closers = {"<|END_ACTION|>"}}, schemas);
          }};
}

ToolFormat CommandRPlusFormat() {
  return {.name = "command-r-plus",
          .recognized_by = {{"Action:", "\"tool_name\""}},
          .syntax = {.openers = {"Action:\n```json", "Action: ```json"}, .closers = {}},
          .grammar = [](const ToolSchemas& schemas) { return MakeJsonCalls({.closers = {"```"}}, schemas); }};
}

}  // namespace shoal
