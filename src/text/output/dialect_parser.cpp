#include "text/output/dialect_parser.h"

#include <string>

namespace shoal {

DialectParser::DialectParser(const Dialect& format, const DialectOptions& options)
    : schemas_(ToolSchemas::FromJson(options.tools)) {
  if (format.harmony()) {
    harmony_.emplace(HarmonyOptions{.tools = options.parse_tools && format.tools == kHarmony,
                                    .reasoning = options.parse_reasoning && format.reasoning == kHarmony});
    return;
  }
  const ToolFormat* calls = FindToolFormat(format.tools);
  // Without tools only what stands around each answer is read.
  if (calls != nullptr && !options.parse_tools && !calls->opened_by_prompt) calls = nullptr;
  if (calls != nullptr) tools_.emplace(calls->syntax(), calls->grammar(schemas_));
  const ReasoningFormat* const reasoning =
      options.parse_reasoning ? FindReasoningFormat(format.reasoning) : nullptr;
  if (reasoning != nullptr) {
    reasoning_.emplace(reasoning->syntax, options.reasoning_open,
                       calls == nullptr ? std::vector<std::string>() : calls->openers);
  }
}

void DialectParser::push(std::string_view text, OutputEvents& events) {
  if (harmony_.has_value()) return harmony_->push(text, events);
  if (!reasoning_.has_value()) return push_rest(text, events);
  std::string rest;
  for (const char c : text) {
    rest.clear();
    reasoning_->next(c, rest, events);
    push_rest(rest, events);
  }
}

void DialectParser::push_rest(std::string_view rest, OutputEvents& events) {
  if (rest.empty()) return;
  if (tools_.has_value()) return tools_->push(rest, events);
  AddEvent(events, {.kind = OutputEvent::Kind::kContent, .text = std::string(rest)});
}

void DialectParser::finish(OutputEvents& events) {
  if (harmony_.has_value()) return harmony_->finish(events);
  std::string rest;
  if (reasoning_.has_value()) reasoning_->finish(rest, events);
  push_rest(rest, events);
  if (tools_.has_value()) tools_->finish(events);
}

}  // namespace shoal
