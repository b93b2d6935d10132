// Turns a model's text into events, in the model's format. Pure: pieces of text in, events out.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "text/output/dialect.h"
#include "text/output/event.h"
#include "text/output/harmony.h"
#include "text/output/reasoning_parser.h"
#include "text/output/tool_parser.h"
#include "text/output/tool_schemas.h"

namespace shoal {

struct DialectOptions {
  /// The request's tools, as in a chat request. Calls are read only where `parse_tools` is set.
  std::string_view tools = "";
  bool parse_tools = false;
  bool parse_reasoning = true;
  /// The prompt ends within the reasoning.
  bool reasoning_open = false;
};

/// The events do not depend on how the text was cut. Text that is not as the format wants goes out as content, or as
/// the arguments of the call that it stands in: nothing is lost but the format's marks, the names of a call's members,
/// and spaces around reasoning and calls. Nothing that a model writes is an error.
class DialectParser {
 public:
  DialectParser(const Dialect& format, const DialectOptions& options);
  DialectParser(const DialectParser&) = delete;  // Its parts refer to one another.

  /// Appends the events of the next piece, whole characters.
  void push(std::string_view text, OutputEvents& events);
  /// The text is over: appends what was held back.
  void finish(OutputEvents& events);

 private:
  void push_rest(std::string_view rest, OutputEvents& events);

  const ToolSchemas schemas_;
  std::optional<HarmonyParser> harmony_;
  std::optional<ReasoningParser> reasoning_;
  std::optional<ToolParser> tools_;
};

}  // namespace shoal
