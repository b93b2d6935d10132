// Gemma 4:       <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>
// FunctionGemma: <start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>
// Gemma 3 has no format of its own; its documentation lets it write Python:
//   ```tool_code
//   get_weather(city="Paris")
//   ```
#include "text/output/json_text.h"
#include "text/output/named_calls.h"
#include "text/output/python_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

std::optional<CallHeader> GemmaHeader(std::string_view text) {
  text = Trimmed(text);
  if (!text.starts_with("call:")) return std::nullopt;
  text.remove_prefix(std::string_view("call:").size());
  if (!IsToolName(text)) return std::nullopt;
  return CallHeader{.name = std::string(text)};
}

}  // namespace

ToolFormat Gemma4Format() {
  return {.name = "gemma4",
          .recognized_by = {{"<|tool_call>", "<|\"|>"}},
          .syntax = {.openers = {"<|tool_call>"}, .closers = {"<tool_call|>"}},
          .grammar =
              [](const ToolSchemas&) {
                return MakeNamedCalls({.call_open = "",
                                       .header = GemmaHeader,
                                       .call_close = "<tool_call|>",
                                       .literal = LiteralSyntax{.quote = "<|\"|>"}});
              },
          .inner_marks = {"<|\"|>"}};
}

ToolFormat FunctionGemmaFormat() {
  return {.name = "functiongemma",
          .recognized_by = {{"<start_function_call>"}},
          .syntax = {.openers = {"<start_function_call>"}, .closers = {"<end_function_call>"}},
          .grammar =
              [](const ToolSchemas&) {
                return MakeNamedCalls({.call_open = "",
                                       .header = GemmaHeader,
                                       .call_close = "<end_function_call>",
                                       .literal = LiteralSyntax{.quote = "<escape>"}});
              },
          .inner_marks = {"<escape>"}};
}

ToolFormat GemmaCodeFormat() {
  return {
      .name = "gemma-code",
      .recognized_by = {{"```tool_code"}},
      .syntax = {.openers = {"```tool_code"}, .closers = {}},
      .grammar = [](const ToolSchemas& schemas) { return MakePythonCalls({.closers = {"```"}}, schemas); }};
}

}  // namespace shoal
