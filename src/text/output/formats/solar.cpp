// Solar Open:
//   <|tool_calls|><|tool_call:begin|>ID<|tool_call:name|>get_weather<|tool_call:args|>{"city": "Paris"}<|tool_call:end|>
#include "text/output/json_text.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

constexpr std::string_view kName = "<|tool_call:name|>";
constexpr std::string_view kArguments = "<|tool_call:args|>";

std::optional<CallHeader> SolarHeader(std::string_view text) {
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
  const NamedCallsSyntax syntax = {.call_open = "", .header = SolarHeader, .call_close = "<|tool_call:end|>"};
  const std::string open = "<|tool_call:begin|>", name(kName), arguments(kArguments);
  const std::string calls = "<|tool_calls|>", answer = "<|begin|>assistant";
  return {.name = "solar",
          .recognized_by = {{"<|tool_call:begin|>"}},
          .openers = {open},
          .dropped = {answer + calls, calls},
          .calls = {syntax},
          .writings = {{.preface = {Maybe(answer), calls},
                        .opener = open,
                        .before_name = {OfRegex("[a-zA-Z0-9_]{1,24}"), name},
                        .after_name = {arguments},
                        .closer = syntax.call_close,
                        .around_each = true}},
          .inner_marks = {name, arguments}};
}

}  // namespace shoal
