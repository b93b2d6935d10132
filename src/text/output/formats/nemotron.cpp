// Nemotron Nano 2: <TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris"}}]</TOOLCALL>
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat NemotronFormat() {
  return {.name = "nemotron",
          .recognized_by = {{"<TOOLCALL>"}},
          .syntax = {.openers = {"<TOOLCALL>"}, .closers = {"</TOOLCALL>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeJsonCalls({.closers = {"</TOOLCALL>"}}, schemas);
          }};
}

}  // namespace shoal
