// Mistral, first versions: [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "a1b2c3d4e"}]
// Later:                   [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}
// With an id:              [TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}
#include "text/output/choice_grammar.h"
#include "text/output/json_calls.h"
#include "text/output/json_text.h"
#include "text/output/named_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

std::optional<CallHeader> MistralHeader(std::string_view text) {
  constexpr std::string_view kArguments = "[ARGS]";
  constexpr std::string_view kId = "[CALL_ID]";
  text = Trimmed(text);
  if (text.ends_with(kArguments)) text.remove_suffix(kArguments.size());
  CallHeader header;
  const size_t at = text.find(kId);
  if (at != std::string_view::npos) {
    header.id = Trimmed(text.substr(at + kId.size()));
    text = text.substr(0, at);
  }
  header.name = Trimmed(text);
  if (!IsToolName(header.name)) return std::nullopt;
  return header;
}

}  // namespace

ToolFormat MistralFormat() {
  return {.name = "mistral",
          .recognized_by = {{"[TOOL_CALLS]"}},
          .syntax = {.openers = {"[TOOL_CALLS]"}, .closers = {}},
          .grammar =
              [](const ToolSchemas& schemas) {
                return MakeChoice(MakeJsonCalls({.closers = {}}, schemas),
                                  MakeNamedCalls({.call_open = "", .header = MistralHeader}));
              },
          .inner_marks = {"[ARGS]", "[CALL_ID]"},
          .short_ids = true};
}

}  // namespace shoal
