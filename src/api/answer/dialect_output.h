// Reads answers in the dialect of the served model: plugs the parsers of text/output into the chain of a choice.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "api/answer/output_parser.h"
#include "text/chat_template.h"
#include "text/output/dialect.h"
#include "text/tokenizer.h"

namespace shoal {

class DialectOutput {
 public:
  DialectOutput(Dialect dialect, const Tokenizer& tokenizer);

  /// How the answer to a conversation is read, whose rendered text is `prompt`. Calls are read only where the
  /// conversation has tools.
  OutputFormat format(const ChatRequest& chat, std::string_view prompt) const;

  const Dialect& dialect() const { return dialect_; }

 private:
  Dialect dialect_;
  std::vector<int32_t> marks_;             ///< Special tokens that the parsers need to see, sorted.
  std::vector<int32_t> marks_with_tools_;  ///< Those where the conversation has tools.
};

}  // namespace shoal
