// GigaChat 3:   <|message_sep|>
//
//               function call<|role_sep|>
//               {"name": "get_weather", "arguments": {"city": "Paris"}}
// GigaChat 3.1: <|function_call|>{"name": ...}
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat GigaChatFormat() {
  return {.name = "gigachat",
          .recognized_by = {{"<|role_sep|>"}},
          .syntax = {.openers = {"<|function_call|>", "function call<|role_sep|>"},
                     .closers = {},
                     .dropped = {"<|message_sep|>"}},
          .grammar = [](const ToolSchemas& schemas) { return MakeJsonCalls({.closers = {}}, schemas); }};
}

}  // namespace shoal
