#include "api/llamacpp/indent_cut.h"

#include <string>

namespace shoal {

void IndentCut::push(std::string_view text, OutputEvents& out) {
  size_t kept = 0;
  for (; kept < text.size() && at_ != At::kEnd; ++kept) {
    const char c = text[kept];
    if (at_ == At::kIndent && (c == ' ' || c == '\t')) {
      ++indent_;
      continue;
    }
    if (at_ == At::kIndent && indent_ < wanted_) {
      at_ = At::kEnd;
      break;
    }
    if (c == '\n') {
      at_ = At::kIndent;
      indent_ = 0;
    } else if (at_ == At::kIndent) {
      at_ = At::kLine;
    }
  }
  if (kept == 0) return;
  AddEvent(out, {.kind = OutputEvent::Kind::kContent, .text = std::string(text.substr(0, kept))});
}

}  // namespace shoal
