#include "text/output/python_calls.h"

#include <fmt/format.h>

#include <cctype>
#include <optional>

#include "text/output/json_text.h"
#include "text/output/literal_reader.h"

namespace shoal {
namespace {

constexpr size_t kNameMax = 256;

bool IsNameByte(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-' || c == '/';
}

class PythonCalls : public CallGrammar {
 public:
  PythonCalls(PythonCallsSyntax syntax, const ToolSchemas& schemas)
      : syntax_(std::move(syntax)), schemas_(&schemas), closers_(syntax_.closers) {}

  void open(std::string_view /*marker*/) override {
    at_ = At::kBetween;
    held_.clear();
    closers_.reset();
    called_ = false;
  }

  Verdict next(char c, CallWriter& out) override {
    switch (at_) {
      case At::kBetween:
        return next_between(c, out);
      case At::kName:
        return next_of_name(c, out);
      case At::kArgument:
        return next_argument(c, out);
      case At::kKey:
        return next_of_key(c, out);
      case At::kValue:
        return next_of_value(c, out);
      case At::kAfter:
        return next_after(c, out);
    }
    return Verdict::kRefused;
  }

 private:
  enum class At { kBetween, kName, kArgument, kKey, kValue, kAfter };

  Verdict next_between(char c, CallWriter& out) {
    const int found = closers_.next(c);
    if (found >= 0) return Verdict::kDone;
    if (found == MarkerReader::kMore) return Verdict::kMore;
    if (found == MarkerReader::kBroken) return Verdict::kRefused;
    if (IsSpace(c) || c == '[' || c == ']' || c == ',' || c == ';') {
      if (called_) out.accept();  // The end of a list need not be followed by anything.
      return Verdict::kMore;
    }
    if (!IsNameByte(c)) return Verdict::kRefused;
    held_ = c;
    at_ = At::kName;
    return Verdict::kMore;
  }

  Verdict next_of_name(char c, CallWriter& out) {
    if (IsNameByte(c)) {
      held_ += c;
      return held_.size() > kNameMax ? Verdict::kRefused : Verdict::kMore;
    }
    if (c != '(') return Verdict::kRefused;
    if (!syntax_.suffix.empty() && held_.ends_with(syntax_.suffix)) {
      held_.resize(held_.size() - syntax_.suffix.size());
    }
    name_ = std::exchange(held_, {});
    if (name_.empty() || (syntax_.known_tools_only && !schemas_->has(name_))) return Verdict::kRefused;
    out.begin(name_);
    arguments_ = 0;
    at_ = At::kArgument;
    return Verdict::kMore;
  }

  Verdict next_argument(char c, CallWriter& out) {
    if (IsSpace(c)) return Verdict::kMore;
    if (c == ')') {
      out.arguments(arguments_ == 0 ? "{}" : "}");
      out.end();
      out.accept();
      called_ = true;
      at_ = At::kBetween;
      return Verdict::kMore;
    }
    if (std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_') {
      held_ = c;
      at_ = At::kKey;
      return Verdict::kMore;
    }
    begin_positional(1, out);
    return next_of_value(c, out);
  }

  // A key, or an argument without one that is a word.
  Verdict next_of_key(char c, CallWriter& out) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') {
      held_ += c;
      return held_.size() > kNameMax ? Verdict::kRefused : Verdict::kMore;
    }
    if (IsSpace(c)) return Verdict::kMore;
    const std::string word = std::exchange(held_, {});
    if (c == '=') {
      begin_value(word, 0, out);
      return Verdict::kMore;
    }
    begin_positional(word.size() + 1, out);
    std::string nothing;
    for (const char letter : word) value_.next(letter, nothing);
    return next_of_value(c, out);
  }

  // held: bytes of the value that were read already.
  void begin_positional(size_t held, CallWriter& out) {
    const std::string key = schemas_->parameter(name_, static_cast<size_t>(arguments_));
    begin_value(key.empty() ? fmt::format("arg{}", arguments_) : key, held, out);
  }

  void begin_value(const std::string& key, size_t held, CallWriter& out) {
    out.arguments((arguments_++ == 0 ? "{" : ", ") + JsonQuoted(key) + ": ");
    out.accept(held);
    value_ = LiteralReader();
    at_ = At::kValue;
  }

  Verdict next_of_value(char c, CallWriter& out) {
    std::string json;
    const ValueState state = value_.next(c, json);
    if (state == ValueState::kBroken) return Verdict::kRefused;
    out.arguments(json);
    out.accept(value_.held() + (state == ValueState::kDoneBefore ? 1 : 0));
    if (state == ValueState::kMore) return Verdict::kMore;
    at_ = At::kAfter;
    return state == ValueState::kDoneBefore ? next_after(c, out) : Verdict::kMore;
  }

  Verdict next_after(char c, CallWriter& out) {
    if (IsSpace(c)) return Verdict::kMore;
    if (c == ')') return next_argument(c, out);
    if (c != ',') return Verdict::kRefused;
    at_ = At::kArgument;
    return Verdict::kMore;
  }

  const PythonCallsSyntax syntax_;
  const ToolSchemas* const schemas_;
  At at_ = At::kBetween;
  MarkerReader closers_;
  std::string held_;
  std::string name_;
  bool called_ = false;
  int arguments_ = 0;
  LiteralReader value_;
};

}  // namespace

std::unique_ptr<CallGrammar> MakePythonCalls(PythonCallsSyntax syntax, const ToolSchemas& schemas) {
  return std::make_unique<PythonCalls>(std::move(syntax), schemas);
}

}  // namespace shoal
