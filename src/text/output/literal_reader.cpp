#include "text/output/literal_reader.h"

#include <cctype>
#include <string_view>

namespace shoal {
namespace {

constexpr size_t kDepthMax = 64;

bool IsBracket(char c) { return std::string_view("[](){}").contains(c); }
bool IsHex(char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; }

/// A word of Python or JSON, or a number, as JSON; anything else as a string.
std::string WordJson(std::string_view word) {
  if (word == "True" || word == "true") return "true";
  if (word == "False" || word == "false") return "false";
  if (word == "None" || word == "null") return "null";
  const bool number = word.front() == '-' || std::isdigit(static_cast<unsigned char>(word.front())) != 0;
  return number && IsJson(word) ? std::string(word) : JsonQuoted(word);
}

/// Digits of an escape: \x41, \u0041, \U00000041.
size_t HexDigits(char kind) { return kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0; }

}  // namespace

// ---- PythonEscape ----

bool PythonEscape::takes(char c, std::string& json) {
  if (held_.empty()) {
    if (c == '\\') {
      held_ = c;
      return true;
    }
    units_.end(json);
    return false;
  }
  if (held_.size() == 1) {
    held_ += c;
    if (HexDigits(c) == 0) end(json);
    return true;
  }
  if (!IsHex(c)) {
    AppendEscaped(json, std::exchange(held_, {}));
    return takes(c, json);
  }
  held_ += c;
  if (held_.size() == 2 + HexDigits(held_[1])) end(json);
  return true;
}

void PythonEscape::end(std::string& json) {
  const std::string escape = std::exchange(held_, {});
  if (HexDigits(escape[1]) > 0) {
    std::string text;
    units_.add(HexNumber(escape.substr(2)), text);
    return AppendEscaped(json, text);
  }
  units_.end(json);
  constexpr std::string_view kNames = "\\'\"/abfnrtv0";
  constexpr std::string_view kValues("\\'\"/\a\b\f\n\r\t\v\0", 12);
  const size_t at = kNames.find(escape[1]);
  AppendEscaped(json, at == std::string_view::npos ? escape : kValues.substr(at, 1));
}

// ---- LiteralReader ----

ValueState LiteralReader::next(char c, std::string& json) {
  switch (at_) {
    case At::kValue:
      return next_value(c, json);
    case At::kWord:
      return next_word(c, json);
    case At::kOpeningMark:
      return next_opening_mark(c, json);
    case At::kString:
      return next_string(c, json);
    case At::kMaybeTriple:
      return next_maybe_triple(c, json);
    case At::kMarkedString:
      return next_marked_string(c, json);
    case At::kAfter:
      return next_after(c, json);
  }
  return ValueState::kBroken;
}

ValueState LiteralReader::next_value(char c, std::string& json) {
  if (IsSpace(c)) return ValueState::kMore;
  if (c == '[' || c == '(' || c == '{') return open(c, json);
  if (IsBracket(c)) return close(c, json);
  if (c == ',' || c == ':') return ValueState::kBroken;
  if (!syntax_.quote.empty() && c == syntax_.quote.front()) {
    held_ = c;
    at_ = At::kOpeningMark;
    return ValueState::kMore;
  }
  begin_item(json);
  if (syntax_.quote.empty() && (c == '"' || c == '\'')) {
    json += '"';
    quote_ = c;
    quotes_ = 0;
    triple_ = false;
    at_ = At::kMaybeTriple;
  } else {
    held_ = c;
    at_ = At::kWord;
  }
  return ValueState::kMore;
}

ValueState LiteralReader::open(char bracket, std::string& json) {
  if (key_next_ || open_.size() >= kDepthMax) return ValueState::kBroken;
  begin_item(json);
  open_ += bracket == '{' ? '{' : '[';
  json += open_.back();
  key_next_ = bracket == '{';
  return ValueState::kMore;
}

ValueState LiteralReader::close(char bracket, std::string& json) {
  if (open_.empty() || in_object() != (bracket == '}')) return ValueState::kBroken;
  if (in_object() && at_ == At::kValue && !key_next_) return ValueState::kBroken;  // {a: }
  if (in_object() && at_ == At::kAfter && is_key_) return ValueState::kBroken;     // {a}
  json += in_object() ? '}' : ']';
  open_.pop_back();
  comma_ = false;
  key_next_ = false;
  is_key_ = false;
  return end_value();
}

void LiteralReader::begin_item(std::string& json) {
  if (std::exchange(comma_, false)) json += ", ";
  is_key_ = std::exchange(key_next_, false);
}

ValueState LiteralReader::end_value() {
  at_ = At::kAfter;
  return open_.empty() ? ValueState::kDone : ValueState::kMore;
}

ValueState LiteralReader::next_word(char c, std::string& json) {
  if (!IsSpace(c) && c != ',' && c != ':' && c != '"' && c != '\'' && !IsBracket(c)) {
    held_ += c;
    return ValueState::kMore;
  }
  const std::string word = std::exchange(held_, {});
  json += is_key_ ? JsonQuoted(word) : WordJson(word);
  if (end_value() == ValueState::kDone) return ValueState::kDoneBefore;
  return next_after(c, json);
}

ValueState LiteralReader::next_opening_mark(char c, std::string& json) {
  held_ += c;
  if (held_ == syntax_.quote) {
    held_.clear();
    begin_item(json);
    json += '"';
    at_ = At::kMarkedString;
  } else if (!syntax_.quote.starts_with(held_)) {
    begin_item(json);
    const std::string word = held_.substr(0, held_.size() - 1);
    held_ = word;
    at_ = At::kWord;
    return next_word(c, json);
  }
  return ValueState::kMore;
}

// After the first quote: a second one ends the string, unless a third one follows.
ValueState LiteralReader::next_maybe_triple(char c, std::string& json) {
  if (c == quote_) {
    if (++quotes_ < 2) return ValueState::kMore;
    triple_ = true;
    quotes_ = 0;
    at_ = At::kString;
    return ValueState::kMore;
  }
  if (quotes_ == 0) {
    at_ = At::kString;
    return next_string(c, json);
  }
  json += '"';
  if (end_value() == ValueState::kDone) return ValueState::kDoneBefore;
  return next_after(c, json);
}

ValueState LiteralReader::next_string(char c, std::string& json) {
  if (escape_.takes(c, json)) {
    AppendEscaped(json, std::string(std::exchange(quotes_, 0), quote_));
    return ValueState::kMore;
  }
  if (c == quote_) return next_quote(json);
  AppendEscaped(json, std::string(std::exchange(quotes_, 0), quote_));
  AppendEscaped(json, std::string_view(&c, 1));
  return ValueState::kMore;
}

ValueState LiteralReader::next_quote(std::string& json) {
  if (triple_ && ++quotes_ < 3) return ValueState::kMore;
  json += '"';
  return end_value();
}

ValueState LiteralReader::next_marked_string(char c, std::string& json) {
  std::string text;
  const bool closed = mark_.next(c, text) >= 0;
  AppendEscaped(json, text);
  if (!closed) return ValueState::kMore;
  json += '"';
  return end_value();
}

ValueState LiteralReader::next_after(char c, std::string& json) {
  if (IsSpace(c)) return ValueState::kMore;
  if (IsBracket(c) && c != '[' && c != '(' && c != '{') return close(c, json);
  if (c == ',' && !is_key_) {
    comma_ = true;
    key_next_ = in_object();
    at_ = At::kValue;
    return ValueState::kMore;
  }
  if (c == ':' && is_key_) {
    json += ": ";
    is_key_ = false;
    at_ = At::kValue;
    return ValueState::kMore;
  }
  return ValueState::kBroken;
}

}  // namespace shoal
