// Mistral, first versions: [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "a1b2c3d4e"}]
// Later:                   [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}
// With an id:              [TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}
#include "text/output/json_text.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

constexpr std::string_view kArguments = "[ARGS]";
constexpr std::string_view kId = "[CALL_ID]";

std::optional<CallHeader> MistralHeader(std::string_view text) {
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
  const std::string open = "[TOOL_CALLS]", arguments(kArguments), id(kId);
  const NotationPiece some_id = OfRegex("[a-zA-Z0-9]{9}");
  const CallWriting list = {.opener = open,
                            .begin = {"["},
                            .before_name = NameMember("name"),
                            .after_name = ArgumentsMember("arguments"),
                            .after_arguments = {", \"id\": \"", some_id, "\"}"},
                            .separator = {", "},
                            .end = {"]"}};
  const CallWriting named = {.for_templates = {kArguments},
                             .opener = open,
                             .before_name = {},
                             .after_name = {arguments},
                             .around_each = true};
  CallWriting with_id = named;
  with_id.for_templates = {kArguments, kId};
  with_id.after_name = {id, some_id, arguments};
  return {.name = "mistral",
          .recognized_by = {{"[TOOL_CALLS]"}},
          .openers = {open},
          .calls = {JsonCallsSyntax{}, {NamedCallsSyntax{.call_open = "", .header = MistralHeader}}},
          .writings = {with_id, named, list},
          .inner_marks = {arguments, id},
          .short_ids = true};
}

}  // namespace shoal
