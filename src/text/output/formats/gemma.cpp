// Gemma 4:       <|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>
// FunctionGemma: <start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>
// Gemma 3 has no format of its own; its documentation lets it write Python:
//   ```tool_code
//   get_weather(city="Paris")
//   ```
#include "text/output/json_text.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

constexpr std::string_view kCall = "call:";

std::optional<CallHeader> GemmaHeader(std::string_view text) {
  text = Trimmed(text);
  if (!text.starts_with(kCall)) return std::nullopt;
  text.remove_prefix(kCall.size());
  if (!IsToolName(text)) return std::nullopt;
  return CallHeader{.name = std::string(text)};
}

ToolFormat MarkedFormat(std::string_view name, std::vector<std::string_view> texts, const std::string& open,
                        const std::string& close, const std::string& quote) {
  return {.name = name,
          .recognized_by = {std::move(texts)},
          .openers = {open},
          .calls = {NamedCallsSyntax{.call_open = "",
                                     .header = GemmaHeader,
                                     .call_close = close,
                                     .literal = LiteralSyntax{.quote = quote}}},
          .writings = {{.opener = open,
                        .before_name = {std::string(kCall)},
                        .after_name = {},
                        .closer = close,
                        .around_each = true,
                        .style = ArgumentStyle::kMarked}},
          .inner_marks = {quote}};
}

}  // namespace

ToolFormat Gemma4Format() {
  return MarkedFormat("gemma4", {"<|tool_call>", "<|\"|>"}, "<|tool_call>", "<tool_call|>", "<|\"|>");
}

ToolFormat FunctionGemmaFormat() {
  return MarkedFormat("functiongemma", {"<start_function_call>"}, "<start_function_call>",
                      "<end_function_call>", "<escape>");
}

ToolFormat GemmaCodeFormat() {
  const PythonCallsSyntax syntax = {.closers = {"```"}};
  const std::string open = "```tool_code";
  return {.name = "gemma-code",
          .recognized_by = {{"```tool_code"}},
          .openers = {open},
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"\n"},
                        .before_name = {},
                        .after_name = {"("},
                        .after_arguments = {")"},
                        .separator = {"\n"},
                        .end = {"\n"},
                        .closer = syntax.closers[0],
                        .style = ArgumentStyle::kPython}}};
}

}  // namespace shoal
