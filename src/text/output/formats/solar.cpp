// Solar Open:
//   <|tool_calls|><|tool_call:begin|>ID<|tool_call:name|>get_weather<|tool_call:args|>{"city": "Paris"}<|tool_call:end|>
#include "text/output/json_text.h"
#include "text/output/named_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

std::optional<CallHeader> SolarHeader(std::string_view text) {
  constexpr std::string_view kName = "<|tool_call:name|>";
  constexpr std::string_view kArguments = "<|tool_call:args|>";
  text = Trimmed(text);
  const size_t at = text.find(kName);
  if (at == std::string_view::npos || !text.ends_with(kArguments)) return std::nullopt;
  const std::string_view id = Trimmed(text.substr(0, at));
  text.remove_suffix(kArguments.size());
  const std::string_view name = Trimmed(text.substr(at + kName.size()));
  if (!IsToolName(name)) return std::nullopt;
  return CallHeader{.name = std::string(name), .id = std::string(id)};
}

}  // namespace

ToolFormat SolarFormat() {
  return {.name = "solar",
          .recognized_by = {{"<|tool_call:begin|>"}},
          .syntax = {.openers = {"<|tool_call:begin|>"},
                     .closers = {"<|tool_call:end|>"},
                     .dropped = {"<|begin|>assistant<|tool_calls|>", "<|tool_calls|>"}},
          .grammar =
              [](const ToolSchemas&) {
                return MakeNamedCalls(
                    {.call_open = "", .header = SolarHeader, .call_close = "<|tool_call:end|>"});
              },
          .inner_marks = {"<|tool_call:name|>", "<|tool_call:args|>"}};
}

}  // namespace shoal
