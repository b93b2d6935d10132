// Firefunction: functools[{"name": "get_weather", "arguments": {"city": "Paris"}}]
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat FirefunctionFormat() {
  return {.name = "firefunction",
          .recognized_by = {{"functools["}},
          .syntax = {.openers = {"functools["}, .closers = {}},
          .grammar = [](const ToolSchemas& schemas) { return MakeJsonCalls({.closers = {}}, schemas); }};
}

}  // namespace shoal
