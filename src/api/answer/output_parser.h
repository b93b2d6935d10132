// Where the parsers of a model's output plug into the chain that turns tokens into an answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "text/output/event.h"

namespace shoal {

/// The last machine of the chain: tells content, reasoning and tool calls apart in the text of one choice, which
/// comes in pieces. Any cut of the text gives the same events, as far as AddEvent joins them.
class OutputParser {
 public:
  virtual ~OutputParser() = default;
  /// Appends to `out` what `text` sets free.
  virtual void push(std::string_view text, OutputEvents& out) = 0;
  /// The end of the text: appends what was held back, and ends what is open.
  virtual void finish(OutputEvents& out) = 0;
};

/// How the text of a model is read.
struct OutputFormat {
  /// A parser for one choice. Empty: all text is content.
  std::function<std::unique_ptr<OutputParser>()> parser = {};
  /// Special tokens that the parser is given as text, since they are its marks; sorted. Others have no text.
  std::vector<int32_t> shown_special = {};
};

}  // namespace shoal
