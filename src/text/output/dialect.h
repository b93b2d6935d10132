// The formats in which models write reasoning and calls of tools, and which of them a model uses.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "text/output/reasoning_parser.h"
#include "text/output/tool_format.h"

namespace shoal {

inline constexpr std::string_view kNoFormat = "none";
/// Reasoning and calls are channels of one format.
inline constexpr std::string_view kHarmony = "harmony";

struct ReasoningFormat {
  std::string_view name;
  /// As in ToolFormat.
  std::vector<std::vector<std::string_view>> recognized_by;
  ReasoningSyntax syntax;
};

/// By name. Where one of them is "harmony" the other is, too, or none.
struct Dialect {
  std::string tools = std::string(kNoFormat);
  std::string reasoning = std::string(kNoFormat);
  bool harmony() const { return tools == kHarmony || reasoning == kHarmony; }
  bool operator==(const Dialect&) const = default;
};

/// The format of a model with this chat template. has_token: whether the tokenizer has a token of this name; where the
/// template says nothing of reasoning, "<think>" as a token does.
Dialect RecognizeDialect(std::string_view chat_template, absl::FunctionRef<bool(std::string_view)> has_token);

/// `recognized`, or what flags say instead: "auto", "none", or a name. Returns InvalidArgument, naming all formats, for
/// any other text.
absl::StatusOr<Dialect> ChooseDialect(const Dialect& recognized, std::string_view tools,
                                      std::string_view reasoning);

/// Each format of calls, with the reasoning that goes with it by name, or else "think".
std::vector<Dialect> Dialects();

/// Null for "none" and "harmony".
const ToolFormat* FindToolFormat(std::string_view name);
const ReasoningFormat* FindReasoningFormat(std::string_view name);

/// What a decoder must show of special tokens: all marks of the format, for requests with or without tools.
std::vector<std::string> DialectMarks(const Dialect& format, bool tools);

/// Whether a prompt ends within the reasoning, so that the model's text begins there.
bool EndsWithinReasoning(const Dialect& format, std::string_view prompt);

}  // namespace shoal
