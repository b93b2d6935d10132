#include "api/answer/choice_chain.h"

#include <utility>

#include "base/status.h"

namespace shoal {

ChoiceChain::ChoiceChain(const Tokenizer& tokenizer, ChainPlan plan)
    : min_tokens_(plan.min_tokens),
      decoder_(tokenizer, /*skip_special=*/true, std::move(plan.format.shown_special)),
      stop_(std::move(plan.stop)),
      parser_(plan.format.parser ? plan.format.parser() : nullptr) {}

absl::Status ChoiceChain::push(std::span<const SampledToken> tokens, OutputEvents& out) {
  for (const SampledToken& token : tokens) {
    if (stopped()) break;
    ++tokens_;
    ASSIGN_OR_RETURN(const std::string piece, decoder_.push(token.id));
    parse(tokens_ <= min_tokens_ ? piece : stop_.push(piece), out);
  }
  return absl::OkStatus();
}

absl::Status ChoiceChain::finish(OutputEvents& out) {
  ASSIGN_OR_RETURN(const std::string rest, decoder_.flush());
  // A stop string may end in the very last characters.
  parse(stop_.push(rest), out);
  parse(stop_.flush(), out);
  if (parser_ == nullptr) return absl::OkStatus();
  const size_t from = out.size();
  parser_->finish(out);
  count_calls(out, from);
  return absl::OkStatus();
}

void ChoiceChain::parse(const std::string& text, OutputEvents& out) {
  if (text.empty()) return;
  if (parser_ == nullptr) return AddEvent(out, {.kind = OutputEvent::Kind::kContent, .text = text});
  const size_t from = out.size();
  parser_->push(text, out);
  count_calls(out, from);
}

void ChoiceChain::count_calls(const OutputEvents& events, size_t from) {
  for (size_t i = from; i < events.size(); ++i) {
    if (events[i].kind == OutputEvent::Kind::kCallBegin) ++calls_;
  }
}

}  // namespace shoal
