#include "text/output/named_calls.h"

#include <algorithm>
#include <cctype>

#include "text/output/json_text.h"

namespace shoal {
namespace {

constexpr size_t kHeaderMax = 1024;

class NamedCalls : public CallGrammar {
 public:
  explicit NamedCalls(NamedCallsSyntax syntax)
      : syntax_(std::move(syntax)),
        between_({syntax_.call_open, syntax_.close}),
        tail_({syntax_.call_close, syntax_.filler}) {}

  void open(std::string_view /*marker*/) override {
    held_.clear();
    between_.reset();
    tail_.reset();
    at_ = syntax_.call_open.empty() ? At::kHeader : At::kBetween;
  }

  Verdict next(char c, CallWriter& out) override {
    switch (at_) {
      case At::kBetween:
        return next_between(c);
      case At::kHeader:
        return next_of_header(c, out);
      case At::kArguments:
        return next_of_arguments(c, out);
      case At::kTail:
        return next_of_tail(c, out);
    }
    return Verdict::kRefused;
  }

 private:
  enum class At { kBetween, kHeader, kArguments, kTail };

  Verdict next_between(char c) {
    if (!between_.begun() && IsSpace(c)) return Verdict::kMore;
    switch (between_.next(c)) {
      case 0:
        at_ = At::kHeader;
        return Verdict::kMore;
      case 1:
        return Verdict::kDone;
      case MarkerReader::kMore:
        return Verdict::kMore;
      default:
        return Verdict::kRefused;
    }
  }

  Verdict next_of_header(char c, CallWriter& out) {
    held_ += c;
    if (held_.size() > kHeaderMax) return Verdict::kRefused;
    const bool empty = !syntax_.call_close.empty() && held_.ends_with(syntax_.call_close);
    if (c != '{' && !empty) return Verdict::kMore;
    held_.resize(held_.size() - (empty ? syntax_.call_close.size() : 1));
    const auto header = syntax_.header(held_);
    if (!header.has_value()) return Verdict::kRefused;
    held_.clear();
    out.begin(header->name, header->id);
    if (empty) {
      out.arguments("{}");
      return end_call(out);
    }
    scanner_ = {};
    literal_.reset();
    if (syntax_.literal.has_value()) literal_.emplace(*syntax_.literal);
    at_ = At::kArguments;
    return next_of_arguments(c, out);
  }

  Verdict next_of_arguments(char c, CallWriter& out) {
    std::string json(1, c);
    ValueState state = ValueState::kMore;
    if (literal_.has_value()) {
      json.clear();
      state = literal_->next(c, json);
    } else {
      state = scanner_.next(c);
    }
    if (state == ValueState::kBroken) return Verdict::kRefused;
    out.arguments(json);
    out.accept(literal_.has_value() ? literal_->held() : 0);
    if (state == ValueState::kMore) return Verdict::kMore;
    out.end();
    at_ = At::kTail;
    return syntax_.call_close.empty() ? end_call(out) : Verdict::kMore;
  }

  Verdict next_of_tail(char c, CallWriter& out) {
    if (!tail_.begun() && IsSpace(c)) return Verdict::kMore;
    const int found = tail_.next(c);
    if (found == 0) return end_call(out);
    return found == 1 || found == MarkerReader::kMore ? Verdict::kMore : Verdict::kRefused;
  }

  Verdict end_call(CallWriter& out) {
    out.end();
    out.accept();
    held_.clear();
    at_ = At::kBetween;
    return syntax_.close.empty() ? Verdict::kDone : Verdict::kMore;
  }

  const NamedCallsSyntax syntax_;
  At at_ = At::kBetween;
  std::string held_;  ///< Of a header.
  MarkerReader between_, tail_;
  JsonScanner scanner_;
  std::optional<LiteralReader> literal_;
};

}  // namespace

std::unique_ptr<CallGrammar> MakeNamedCalls(NamedCallsSyntax syntax) {
  return std::make_unique<NamedCalls>(std::move(syntax));
}

bool IsToolName(std::string_view name) {
  return !name.empty() && name.size() <= 256 && std::ranges::none_of(name, [](char c) {
    return static_cast<unsigned char>(c) <= ' ' || std::string_view("<>{}()[]\"'`,;=|").contains(c);
  });
}

}  // namespace shoal
