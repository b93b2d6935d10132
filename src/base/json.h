// The only reader of JSON texts: strict (RFC 8259), UTF-8, and bounded. A key that appears twice in an object
// is refused, because different readers would use different ones of its values.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace shoal {

struct JsonLimits {
  int depth_max = 32;  ///< The most nested objects and arrays.
  /// The most keys of an object; 0: no limit. ordered_json searches linearly for each key, so it needs one.
  int keys_max = 0;
};

/// Reads the single value in `text`. Returns InvalidArgument if the text is not JSON (with line and column),
/// if a key appears twice, or if a limit is exceeded. Messages are one printable line, suitable for clients.
absl::Status ReadJson(std::string_view text, const JsonLimits& limits, nlohmann::json* value);
/// As above; keys keep their order.
absl::Status ReadJson(std::string_view text, const JsonLimits& limits, nlohmann::ordered_json* value);

/// What stands under `key` in what another program wrote: null where `value` is no object, or has no such key. (value()
/// of the library throws where there is another type.)
const nlohmann::json& MemberOf(const nlohmann::json& value, std::string_view key);
const nlohmann::ordered_json& MemberOf(const nlohmann::ordered_json& value, std::string_view key);
/// The first value of the list there; null where there is none.
const nlohmann::json& FirstOf(const nlohmann::json& value, std::string_view key);
const nlohmann::ordered_json& FirstOf(const nlohmann::ordered_json& value, std::string_view key);
/// The text there; "" where there is none.
std::string TextOf(const nlohmann::json& value, std::string_view key);
std::string TextOf(const nlohmann::ordered_json& value, std::string_view key);

}  // namespace shoal
