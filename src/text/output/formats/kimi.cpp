// Kimi K2:
//   <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>
//   {"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>
// Kimi K3:
//   <|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>
//   <|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>
//   <|close|>call<|sep|><|close|>tools<|sep|>
#include "text/output/json_text.h"
#include "text/output/named_calls.h"
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

namespace {

// "functions.get_weather:0", which is also the call's id.
std::optional<CallHeader> KimiHeader(std::string_view text) {
  constexpr std::string_view kEnd = "<|tool_call_argument_begin|>";
  text = Trimmed(text);
  if (!text.ends_with(kEnd)) return std::nullopt;
  const std::string_view id = Trimmed(text.substr(0, text.size() - kEnd.size()));
  std::string_view name = id.substr(0, id.rfind(':'));
  if (name.starts_with("functions.")) name.remove_prefix(std::string_view("functions.").size());
  if (!IsToolName(name)) return std::nullopt;
  return CallHeader{.name = std::string(name), .id = std::string(id)};
}

}  // namespace

ToolFormat KimiK2Format() {
  return {.name = "kimi-k2",
          .recognized_by = {{"<|tool_call_argument_begin|>"}},
          .syntax = {.openers = {"<|tool_calls_section_begin|>"},
                     .closers = {"<|tool_call_end|>", "<|tool_calls_section_end|>"}},
          .grammar =
              [](const ToolSchemas&) {
                return MakeNamedCalls({.call_open = "<|tool_call_begin|>",
                                       .header = KimiHeader,
                                       .call_close = "<|tool_call_end|>",
                                       .close = "<|tool_calls_section_end|>"});
              },
          .inner_marks = {"<|tool_call_begin|>", "<|tool_call_argument_begin|>"}};
}

ToolFormat KimiK3Format() {
  return {.name = "kimi-k3",
          .recognized_by = {{"<|open|>", "<|close|>", "<|sep|>"}},
          .syntax = {.openers = {"<|open|>tools<|sep|>"}, .closers = {"<|close|>tools<|sep|>"}},
          .grammar = [](const ToolSchemas& schemas) {
            return MakeXmlCalls({.call_open = "<|open|>call tool=\"",
                                 .name_close = "\"",
                                 .tag_close = "<|sep|>",
                                 .tag_has_attributes = true,
                                 .key_open = "<|open|>argument key=\"",
                                 .key_close = "\"",
                                 .value_open = "<|sep|>",
                                 .value_close = "<|close|>argument<|sep|>",
                                 .call_close = "<|close|>call<|sep|>",
                                 .close = {"<|close|>tools<|sep|>"},
                                 .text_attribute = "type=\"string\""},
                                schemas);
          }};
}

}  // namespace shoal
