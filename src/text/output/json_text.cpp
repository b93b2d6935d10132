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
    drop_half(text);
    text += std::exchange(escape_, {});
    return next_plain(c, text);
  }
  escape_ += c;
  if (escape_.size() == 2 && c != 'u') end_escape(text);
  if (escape_.size() == 6) end_unicode(text);
  return ValueState::kMore;
}

ValueState JsonStringReader::next_plain(char c, std::string& text) {
  if (c == '\\') {
    escape_ = c;
    return ValueState::kMore;
  }
  drop_half(text);
  if (c == '"') return ValueState::kDone;
  text += c;
  return ValueState::kMore;
}

void JsonStringReader::end_escape(std::string& text) {
  constexpr std::string_view kNames = "\"\\/bfnrt";
  constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  drop_half(text);
  const size_t at = kNames.find(escape_[1]);
  if (at == std::string_view::npos) {
    text += escape_;
  } else {
    text += kValues[at];
  }
  escape_.clear();
}

void JsonStringReader::end_unicode(std::string& text) {
  uint32_t unit = 0;
  std::from_chars(escape_.data() + 2, escape_.data() + escape_.size(), unit, 16);
  escape_.clear();
  if (half_ != 0 && IsLowSurrogate(unit)) {
    AppendUtf8(text, 0x10000 + ((half_ - 0xd800) << 10) + (unit - 0xdc00));
    half_ = 0;
    return;
  }
  drop_half(text);
  if (IsHighSurrogate(unit)) {
    half_ = unit;
  } else {
    AppendUtf8(text, unit);
  }
}

void JsonStringReader::drop_half(std::string& text) {
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
