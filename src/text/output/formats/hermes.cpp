// Hermes and Qwen 2.5 and 3, and many that follow them:
//   <tool_call>
//   {"name": "get_weather", "arguments": {"city": "Paris"}}
//   </tool_call>
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat HermesFormat() {
  return {.name = "hermes",
          .recognized_by = {{"<tool_call>"}},
          .syntax = {.openers = {"<tool_call>"}, .closers = {"</tool_call>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeJsonCalls({.closers = {"</tool_call>"}}, schemas);
          }};
}

}  // namespace shoal
