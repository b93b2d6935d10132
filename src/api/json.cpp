#include "api/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/status.h"

namespace shoal {

ApiResult<Json> ParseJson(std::string_view text) {
  Json value;
  const absl::Status read = ReadJson(text, {.depth_max = kJsonDepthMax, .keys_max = kJsonKeysMax}, &value);
  if (read.ok()) return value;
  return std::unexpected(ApiError{.message = Message(read), .code = "invalid_json"});
}

ApiResult<Json> ParseBody(std::string_view body) {
  auto value = ParseJson(body);
  if (!value.has_value()) {
    value.error().message = "the body: " + value.error().message;
    return value;
  }
  if (!value->is_object()) {
    return std::unexpected(
        ApiError{.message = fmt::format("the body must be a JSON object, got {}", JsonTypeName(*value)),
                 .code = "invalid_type"});
  }
  return value;
}

std::string DumpJson(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string Quoted(std::string_view text) { return DumpJson(Json(text)); }

std::string_view JsonTypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    case Json::value_t::number_float:
      return "a number";
    default:
      return "something else";
  }
}

std::string JsonExcerpt(const Json& value) {
  constexpr size_t kMax = 60;
  if (value.is_structured() && value.size() > kMax)
    return fmt::format("{} of {}", JsonTypeName(value), value.size());
  std::string text = DumpJson(value);
  if (text.size() <= kMax) return text;
  size_t cut = kMax;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;  // Not within a character.
  return text.substr(0, cut) + "...";
}

}  // namespace shoal
