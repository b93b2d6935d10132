// JSON as the API takes it: keys keep their order (chat templates print them), and depth and width are
// bounded.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "api/api_error.h"

namespace shoal {

using Json = nlohmann::ordered_json;

/// Nested objects and arrays, and keys of one object, beyond which a text is refused: both bound the time
/// that it costs.
inline constexpr int kJsonDepthMax = 64;
inline constexpr int kJsonKeysMax = 4096;

/// The value of `text`, read as by ReadJson of base/json.h. A 400 says what is wrong, and where.
ApiResult<Json> ParseJson(std::string_view text);

/// The JSON object that a request's body is.
ApiResult<Json> ParseBody(std::string_view body);

/// One line; strings that are not UTF-8 (they should not be) get U+FFFD.
std::string DumpJson(const Json& value);

/// `text` as a JSON string, with its quotes.
std::string Quoted(std::string_view text);

/// "an object", "a string", ...: for messages.
std::string_view JsonTypeName(const Json& value);

/// `value` on one line, cut to some 60 bytes: for messages.
std::string JsonExcerpt(const Json& value);

}  // namespace shoal
