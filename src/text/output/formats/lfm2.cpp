// LFM2: <|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>
#include "text/output/python_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat Lfm2Format() {
  return {.name = "lfm2",
          .recognized_by = {{"<|tool_call_start|>"}, {"<|tool_list_start|>"}, {"List of tools: ["}},
          .syntax = {.openers = {"<|tool_call_start|>"}, .closers = {"<|tool_call_end|>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakePythonCalls({.closers = {"<|tool_call_end|>"}}, schemas);
          }};
}

}  // namespace shoal
