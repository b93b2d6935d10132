// Apriel and MiniMax M1: a list of objects, or one on each line, between <tool_calls> and </tool_calls>.
#include "text/output/json_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat AprielFormat() {
  return {.name = "apriel",
          .recognized_by = {{"<tool_calls>["}, {"<tool_calls>", "\"name\""}},
          .syntax = {.openers = {"<tool_calls>"}, .closers = {"</tool_calls>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeJsonCalls({.closers = {"</tool_calls>"}}, schemas);
          }};
}

}  // namespace shoal
