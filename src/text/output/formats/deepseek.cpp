// DeepSeek V3 and R1:
//   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
//   ```json
//   {"city": "Paris"}
//   ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
// V3.1:
//   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
#include "text/output/json_text.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
constexpr std::string_view kFence = "```json";

std::optional<CallHeader> DeepSeekHeader(std::string_view text) {
  const size_t at = text.find(kSeparator);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view name = Trimmed(text.substr(0, at));
  std::string_view after = Trimmed(text.substr(at + kSeparator.size()));
  if (after.ends_with(kFence)) after = Trimmed(after.substr(0, after.size() - kFence.size()));
  // V3 has the kind of the tool in front, and its name behind the separator.
  if (!after.empty()) name = after;
  if (!IsToolName(name)) return std::nullopt;
  return CallHeader{.name = std::string(name)};
}

}  // namespace

ToolFormat DeepSeekFormat() {
  const NamedCallsSyntax syntax = {.call_open = "<｜tool▁call▁begin｜>",
                                   .header = DeepSeekHeader,
                                   .call_close = "<｜tool▁call▁end｜>",
                                   .filler = "```",
                                   .close = "<｜tool▁calls▁end｜>"};
  const std::string separator(kSeparator);
  const CallWriting v31 = {.opener = "<｜tool▁calls▁begin｜>",
                           .before_name = {syntax.call_open},
                           .after_name = {separator},
                           .after_arguments = {syntax.call_close},
                           .closer = syntax.close};
  CallWriting v3 = v31;
  v3.for_templates = {kFence};
  v3.before_name = {syntax.call_open + "function" + separator};
  v3.after_name = {"\n" + std::string(kFence) + "\n"};
  v3.after_arguments = {"\n" + syntax.filler + syntax.call_close};
  v3.separator = {"\n"};
  return {.name = "deepseek",
          .recognized_by = {{"<｜tool▁call▁begin｜>"}},
          .openers = {v3.opener},
          .calls = {syntax},
          .writings = {v3, v31},
          .inner_marks = {syntax.call_open, separator}};
}

}  // namespace shoal
