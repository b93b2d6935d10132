#include "text/output/json_text.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/json.h"

namespace shoal {
namespace {

/// Deeper text than this is not JSON to us: arguments of tools have few levels.
constexpr size_t kDepthMax = 128;
constexpr uint32_t kReplacement = 0xfffd;

bool IsHighSurrogate(uint32_t unit) { return unit >= 0xd800 && unit < 0xdc00; }
bool IsLowSurrogate(uint32_t unit) { return unit >= 0xdc00 && unit < 0xe000; }

}  // namespace

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

uint32_t HexNumber(std::string_view digits) {
  uint32_t number = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), number, 16);
  return number;
}

// ---- JsonScanner ----

ValueState JsonScanner::next(char c) {
  if (in_string_) return next_in_string(c);
  if (scalar_) {
    const bool ends = IsSpace(c) || c == ',' || c == '}' || c == ']';
    return ends ? ValueState::kDoneBefore : c == '"' || c == '<' ? ValueState::kBroken : ValueState::kMore;
  }
  switch (c) {
    case '"':
      in_string_ = true;
      return ValueState::kMore;
    case '{':
    case '[':
      if (open_.size() >= kDepthMax) return ValueState::kBroken;
      open_ += c;
      return ValueState::kMore;
    case '}':
    case ']':
      if (open_.empty() || open_.back() != (c == '}' ? '{' : '[')) return ValueState::kBroken;
      open_.pop_back();
      return open_.empty() ? ValueState::kDone : ValueState::kMore;
    default:
      if (open_.empty()) scalar_ = true;
      return ValueState::kMore;
  }
}

ValueState JsonScanner::next_in_string(char c) {
  if (escaped_) {
    escaped_ = false;
  } else if (c == '\\') {
    escaped_ = true;
  } else if (c == '"') {
    in_string_ = false;
    if (open_.empty()) return ValueState::kDone;
  }
  return ValueState::kMore;
}

// ---- JsonStringReader ----

ValueState JsonStringReader::next(char c, std::string& text) {
  if (escape_.empty()) return next_plain(c, text);
  if (escape_.size() >= 2 && std::isxdigit(static_cast<unsigned char>(c)) == 0) {
    units_.end(text);
    text += std::exchange(escape_, {});
    return next_plain(c, text);
  }
  escape_ += c;
  if (escape_.size() == 2 && c != 'u') end_escape(text);
  if (escape_.size() == 6) {
    units_.add(HexNumber(std::exchange(escape_, {}).substr(2)), text);
  }
  return ValueState::kMore;
}

ValueState JsonStringReader::next_plain(char c, std::string& text) {
  if (c == '\\') {
    escape_ = c;
    return ValueState::kMore;
  }
  units_.end(text);
  if (c == '"') return ValueState::kDone;
  text += c;
  return ValueState::kMore;
}

void JsonStringReader::end_escape(std::string& text) {
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  units_.end(text);
  const size_t at = kNames.find(escape_[1]);
  if (at == std::string_view::npos) {
    text += escape_;
  } else {
    text += kValues[at];
  }
  escape_.clear();
}

// ---- Utf16Joiner ----

void Utf16Joiner::add(uint32_t unit, std::string& text) {
  if (half_ != 0 && IsLowSurrogate(unit)) {
    AppendUtf8(text, 0x10000 + ((half_ - 0xd800) << 10) + (unit - 0xdc00));
    half_ = 0;
    return;
  }
  end(text);
  if (IsHighSurrogate(unit)) {
    half_ = unit;
  } else {
    AppendUtf8(text, unit);
  }
}

void Utf16Joiner::end(std::string& text) {
  if (std::exchange(half_, 0) != 0) AppendUtf8(text, kReplacement);
}

// ---- Writing ----

void AppendUtf8(std::string& text, uint32_t character) {
  const auto add = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (character > 0x10ffff || (character >= 0xd800 && character < 0xe000)) character = kReplacement;
  if (character < 0x80) {
    add(character);
  } else if (character < 0x800) {
    add(0xc0 | character >> 6);
    add(0x80 | (character & 0x3f));
  } else if (character < 0x10000) {
    add(0xe0 | character >> 12);
    add(0x80 | (character >> 6 & 0x3f));
    add(0x80 | (character & 0x3f));
  } else {
    add(0xf0 | character >> 18);
    add(0x80 | (character >> 12 & 0x3f));
    add(0x80 | (character >> 6 & 0x3f));
    add(0x80 | (character & 0x3f));
  }
}

void AppendEscaped(std::string& json, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '"':
        json += "\\\"";
        break;
      case '\\':
        json += "\\\\";
        break;
      case '\n':
        json += "\\n";
        break;
      case '\r':
        json += "\\r";
        break;
      case '\t':
        json += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          json += fmt::format("\\u{:04x}", static_cast<int>(c));
        } else {
          json += c;
        }
    }
  }
}

std::string JsonQuoted(std::string_view text) {
  std::string json = "\"";
  AppendEscaped(json, text);
  json += '"';
  return json;
}

bool IsJson(std::string_view text) {
  nlohmann::json value;
  return ReadJson(text, {.depth_max = static_cast<int>(kDepthMax)}, &value).ok();
}

}  // namespace shoal
