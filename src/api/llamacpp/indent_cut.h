// Where a middle ends that was to stay in its block.
#pragma once

#include <cstdint>
#include <string_view>

#include "api/answer/output_parser.h"

namespace shoal {

/// Passes text on until a line after the first, be it empty, has something behind less than `indent` spaces and tabs:
/// that and all behind it is left out, as llama-server's n_indent has it.
class IndentCut final : public OutputParser {
 public:
  /// indent: at least 1.
  explicit IndentCut(int64_t indent) : wanted_(indent) {}

  void push(std::string_view text, OutputEvents& out) override;
  void finish(OutputEvents& /*out*/) override {}

 private:
  enum class At : uint8_t { kFirstLine, kIndent, kLine, kEnd };

  const int64_t wanted_;
  At at_ = At::kFirstLine;
  int64_t indent_ = 0;  // Of this line, so far.
};

}  // namespace shoal
