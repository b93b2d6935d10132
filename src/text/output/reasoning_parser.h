// Splits a model's text into its reasoning and the rest, by the marks around the reasoning.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/output/event.h"
#include "text/output/marker_matcher.h"

namespace shoal {

struct ReasoningSyntax {
  std::string open, close;
  /// Reasoning may begin anywhere. Otherwise only at the very beginning, since an answer may speak of "<think>".
  bool anywhere = false;
  /// Marks around the answer, which are dropped.
  std::vector<std::string> dropped = {};
};

/// Spaces around the reasoning are dropped. Reasoning that is never closed ends with the text, or where a call of a
/// tool begins.
class ReasoningParser {
 public:
  /// opened: the prompt ends within the reasoning. call_openers: what begins a call of a tool.
  ReasoningParser(ReasoningSyntax syntax, bool opened, std::vector<std::string> call_openers);

  /// Appends reasoning to `events`, and returns the rest of `text`. The caller must deal with the rest at once: where
  /// pieces of both are in `text`, `next` is called for each byte.
  void next(char c, std::string& rest, OutputEvents& events);
  /// The text is over: what is held back.
  void finish(std::string& rest, OutputEvents& events);

 private:
  enum class At { kBegin, kInside, kAfter, kOutside };

  void next_inside(char c, std::string& rest, OutputEvents& events);
  void next_outside(char c, std::string& rest);
  void add_reasoning(std::string_view text, OutputEvents& events);
  bool ends_reasoning(const std::string& marker) const;

  const ReasoningSyntax syntax_;
  At at_;
  bool spoken_ = false;  ///< Some reasoning was read.
  std::string held_;     ///< At the beginning: spaces, and what may be the opening mark.
  std::string spaces_;   ///< Within: spaces that may be the last.
  MarkerMatcher inside_;
  MarkerMatcher outside_;
};

}  // namespace shoal
