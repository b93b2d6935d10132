// Functionary 3.1: <function=get_weather>{"city": "Paris"}</function>
// v3.2, whose prompt ends with ">>>": get_weather
//   {"city": "Paris"}>>>get_time
//   {"zone": "CET"}
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
  const NamedCallsSyntax syntax = {.call_open = "", .header = FunctionaryHeader, .call_close = "</function>"};
  const std::string open = "<function=";
  return {.name = "functionary-v3.1",
          .recognized_by = {{"<function=example_function_name>{"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .before_name = {},
                        .after_name = {">"},
                        .closer = syntax.call_close,
                        .around_each = true}}};
}

ToolFormat FunctionaryRecipientFormat() {
  const std::string open = ">>>";
  return {.name = "functionary-v3.2",
          .recognized_by = {{">>>all", ">>>${recipient}"}},
          .openers = {open},
          .calls = {RecipientCallsSyntax{.user = "all"}},
          .writings = {{.opener = open, .before_name = {}, .after_name = {"\n"}, .around_each = true}},
          .opened_by_prompt = true};
}

}  // namespace shoal
