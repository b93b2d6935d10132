// Functionary 3.1: <function=get_weather>{"city": "Paris"}</function>
#include "text/output/named_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

std::optional<CallHeader> FunctionaryHeader(std::string_view text) {
  if (!text.ends_with('>')) return std::nullopt;
  text.remove_suffix(1);
  if (!IsToolName(text)) return std::nullopt;
  return CallHeader{.name = std::string(text)};
}

}  // namespace

ToolFormat FunctionaryFormat() {
  return {
      .name = "functionary-v3.1",
      .recognized_by = {{"<function=example_function_name>{"}},
      .syntax = {.openers = {"<function="}, .closers = {"</function>"}},
      .grammar = [](const ToolSchemas&) {
        return MakeNamedCalls({.call_open = "", .header = FunctionaryHeader, .call_close = "</function>"});
      }};
}

}  // namespace shoal
