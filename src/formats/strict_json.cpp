#include "formats/strict_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/status.h"

namespace shoal {
namespace {

constexpr int kNestingMax = 32;

/// Deepest nesting of brackets outside strings: checked before parsing, so that hostile text costs one scan.
int NestingOf(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

std::string Printable(std::string_view text, size_t chars_max) {
  std::string result(text.substr(0, chars_max));
  for (char& c : result) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  if (text.size() > chars_max) result += "...";
  return result;
}

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const size_t size = lead < 0x80   ? 1
                        : lead < 0xc2 ? 0
                        : lead < 0xe0 ? 2
                        : lead < 0xf0 ? 3
                        : lead < 0xf5 ? 4
                                      : 0;
    if (size == 0 || text.size() - i < size) return false;
    for (size_t k = 1; k < size; ++k) {
      const auto byte = static_cast<uint8_t>(text[i + k]);
      // The second byte's range rules out overlong forms, surrogates and what lies beyond U+10FFFF.
      const uint8_t low = k > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
      const uint8_t high = k > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
      if (byte < low || byte > high) return false;
    }
    i += size;
  }
  return true;
}

std::string JsonExcerpt(const nlohmann::json& value) {
  return Printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 60);
}

absl::Status ParseStrictJson(std::string_view text, std::string_view where, nlohmann::json* value) {
  using Json = nlohmann::json;
  if (const int nesting = NestingOf(text); nesting > kNestingMax) {
    return InvalidArgument("{}: JSON nested {} deep: expected at most {}", where, nesting, kNestingMax);
  }
  std::vector<std::set<std::string>> open_objects;
  std::string duplicate;
  bool has_duplicate = false;
  const auto watch_keys = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event == Json::parse_event_t::key && !has_duplicate) {
      has_duplicate = !open_objects.back().insert(parsed.get<std::string>()).second;
      if (has_duplicate) duplicate = parsed.get<std::string>();
    }
    return true;
  };
  try {  // The parser's words, with line and byte, come only as an exception.
    *value = Json::parse(text.begin(), text.end(), watch_keys);
  } catch (const Json::exception& error) {
    return InvalidArgument("{}: not valid JSON: {}", where, Printable(error.what(), 300));
  }
  if (has_duplicate)
    return InvalidArgument("{}: the key '{}' appears twice", where, Printable(duplicate, 200));
  return absl::OkStatus();
}

}  // namespace shoal
