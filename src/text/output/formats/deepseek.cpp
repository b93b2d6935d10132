// DeepSeek V3 and R1:
//   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
//   ```json
//   {"city": "Paris"}
//   ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
// V3.1:
//   <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
#include "text/output/json_text.h"
#include "text/output/named_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

std::optional<CallHeader> DeepSeekHeader(std::string_view text) {
  constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
  constexpr std::string_view kFence = "```json";
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
  return {.name = "deepseek",
          .recognized_by = {{"<｜tool▁call▁begin｜>"}},
          .syntax = {.openers = {"<｜tool▁calls▁begin｜>"},
                     .closers = {"<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"}},
          .grammar =
              [](const ToolSchemas&) {
                return MakeNamedCalls({.call_open = "<｜tool▁call▁begin｜>",
                                       .header = DeepSeekHeader,
                                       .call_close = "<｜tool▁call▁end｜>",
                                       .filler = "```",
                                       .close = "<｜tool▁calls▁end｜>"});
              },
          .inner_marks = {"<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"}};
}

}  // namespace shoal
