// Granite 3: <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]
// Granite 4 writes as Hermes. Phi 4 mini ends the list with <|/tool_call|>.
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat GraniteFormat() {
  return {
      .name = "granite",
      .recognized_by = {{"<|tool_call|>"}},
      .syntax = {.openers = {"<|tool_call|>", "<tool_call>"}, .closers = {"<|/tool_call|>", "</tool_call>"}},
      .grammar = [](const ToolSchemas& schemas) {
        return MakeJsonCalls({.closers = {"<|/tool_call|>", "</tool_call>"}}, schemas);
      }};
}

}  // namespace shoal
