// Kimi K2:
//   <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>
//   {"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>
// Kimi K3:
//   <|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>
//   <|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>
//   <|close|>call<|sep|><|close|>tools<|sep|>
#include "text/output/json_text.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

constexpr std::string_view kArguments = "<|tool_call_argument_begin|>";
constexpr std::string_view kFunctions = "functions.";

// "functions.get_weather:0", which is also the call's id.
std::optional<CallHeader> KimiHeader(std::string_view text) {
  text = Trimmed(text);
  if (!text.ends_with(kArguments)) return std::nullopt;
  const std::string_view id = Trimmed(text.substr(0, text.size() - kArguments.size()));
  std::string_view name = id.substr(0, id.rfind(':'));
  if (name.starts_with(kFunctions)) name.remove_prefix(kFunctions.size());
  if (!IsToolName(name)) return std::nullopt;
  return CallHeader{.name = std::string(name), .id = std::string(id)};
}

}  // namespace

ToolFormat KimiK2Format() {
  const NamedCallsSyntax syntax = {.call_open = "<|tool_call_begin|>",
                                   .header = KimiHeader,
                                   .call_close = "<|tool_call_end|>",
                                   .close = "<|tool_calls_section_end|>"};
  const std::string open = "<|tool_calls_section_begin|>";
  const std::string arguments(kArguments);
  return {.name = "kimi-k2",
          .recognized_by = {{kArguments}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .before_name = {syntax.call_open + std::string(kFunctions)},
                        .after_name = {":", OfRegex("[0-9]{1,3}"), arguments},
                        .after_arguments = {syntax.call_close},
                        .closer = syntax.close}},
          .inner_marks = {syntax.call_open, arguments}};
}

ToolFormat KimiK3Format() {
  const XmlCallsSyntax syntax = {.call_open = "<|open|>call tool=\"",
                                 .name_close = "\"",
                                 .tag_close = "<|sep|>",
                                 .tag_has_attributes = true,
                                 .key_open = "<|open|>argument key=\"",
                                 .key_close = "\"",
                                 .value_open = "<|sep|>",
                                 .value_close = "<|close|>argument<|sep|>",
                                 .call_close = "<|close|>call<|sep|>",
                                 .close = {"<|close|>tools<|sep|>"},
                                 .text_attribute = "type=\"string\""};
  const std::string open = "<|open|>tools<|sep|>";
  return {.name = "kimi-k3",
          .recognized_by = {{"<|open|>", "<|close|>", "<|sep|>"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .before_name = {syntax.call_open},
                        .after_name = {syntax.name_close + " index=\"", OfRegex("[0-9]{1,3}"),
                                       "\"" + syntax.tag_close},
                        .after_arguments = {syntax.call_close},
                        .closer = syntax.close[0],
                        .style = ArgumentStyle::kElements,
                        .text_attribute = {" " + syntax.text_attribute},
                        .json_attribute = {" type=\"", OfRegex("number|boolean|object|array|null"), "\""}}}};
}

}  // namespace shoal
