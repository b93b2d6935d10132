#include "api/answer/dialect_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/random.h"
#include "text/output/dialect_parser.h"

namespace shoal {
namespace {

/// The special tokens among the marks of a dialect.
std::vector<int32_t> SpecialMarks(const Dialect& dialect, bool tools, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const std::string& mark : DialectMarks(dialect, tools)) {
    const auto tokens = tokenizer.encode(mark, {.parse_special = true});
    if (!tokens.ok()) continue;
    std::ranges::copy_if(*tokens, std::back_inserter(ids),
                         [&](int32_t id) { return tokenizer.is_special(id); });
  }
  std::ranges::sort(ids);
  const auto [begin, end] = std::ranges::unique(ids);
  ids.erase(begin, end);
  return ids;
}

/// An id for a call that the model gave none.
std::string NewCallId(bool short_id) {
  if (!short_id) return fmt::format("call_{:016x}{:08x}", EntropySeed(), EntropySeed() & 0xffffffffu);
  constexpr std::string_view kAlphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  uint64_t bits = EntropySeed();
  std::string id;
  for (int i = 0; i < 9; ++i, bits /= kAlphabet.size()) id += kAlphabet[bits % kAlphabet.size()];
  return id;
}

class Parser final : public OutputParser {
 public:
  Parser(const Dialect& dialect, const DialectOptions& options, bool short_ids)
      : parser_(dialect, options), short_ids_(short_ids) {}

  void push(std::string_view text, OutputEvents& out) override {
    const size_t from = out.size();
    parser_.push(text, out);
    name_calls(out, from);
  }

  void finish(OutputEvents& out) override {
    const size_t from = out.size();
    parser_.finish(out);
    name_calls(out, from);
  }

 private:
  /// Clients need an id for each call.
  void name_calls(OutputEvents& events, size_t from) {
    for (OutputEvent& event : std::span(events).subspan(from)) {
      const bool nameless = event.kind == OutputEvent::Kind::kCallBegin && event.call_id.empty();
      if (nameless) event.call_id = NewCallId(short_ids_);
    }
  }

  DialectParser parser_;
  const bool short_ids_;
};

}  // namespace

DialectOutput::DialectOutput(Dialect dialect, const Tokenizer& tokenizer)
    : dialect_(std::move(dialect)),
      marks_(SpecialMarks(dialect_, false, tokenizer)),
      marks_with_tools_(SpecialMarks(dialect_, true, tokenizer)) {}

OutputFormat DialectOutput::format(const ChatRequest& chat, std::string_view prompt) const {
  if (dialect_ == Dialect{}) return {};
  const bool tools = !chat.tools.empty() && chat.tools != "[]";
  const ToolFormat* const calls = FindToolFormat(dialect_.tools);
  const bool short_ids = calls != nullptr && calls->short_ids;
  auto parser = [dialect = dialect_, definitions = std::string(tools ? chat.tools : ""), tools, short_ids,
                 opened = EndsWithinReasoning(dialect_, prompt)]() -> std::unique_ptr<OutputParser> {
    return std::make_unique<Parser>(
        dialect, DialectOptions{.tools = definitions, .parse_tools = tools, .reasoning_open = opened},
        short_ids);
  };
  return {.parser = std::move(parser), .shown_special = tools ? marks_with_tools_ : marks_};
}

}  // namespace shoal
