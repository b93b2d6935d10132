// Apertus: <|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat ApertusFormat() {
  return {.name = "apertus",
          .recognized_by = {{"<|tools_prefix|>"}},
          .syntax = {.openers = {"<|tools_prefix|>"}, .closers = {"<|tools_suffix|>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeJsonCalls({.closers = {"<|tools_suffix|>"}, .short_form = true}, schemas);
          }};
}

}  // namespace shoal
