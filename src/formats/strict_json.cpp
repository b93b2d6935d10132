#include "formats/strict_json.h"

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/status.h"

namespace shoal {

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
  return Annotate(ReadJson(text, {.depth_max = 32}, value), where);
}

}  // namespace shoal
