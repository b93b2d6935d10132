// The one reader of JSON texts: strict (RFC 8259) and UTF-8, bounded, and no key twice in one object. Which
// of two values counts would depend on who reads, so that two readers could be told two things by one text.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "absl/status/status.h"

namespace shoal {

struct JsonLimits {
  int depth_max = 32;  ///< Objects and arrays within one another.
  /// Of one object; 0: any number. Where the order is kept, each is searched for among the others.
  int keys_max = 0;
};

/// Reads the one value that `text` is. InvalidArgument: not JSON (which says at which line and column), a key
/// that appears twice, or a limit. Messages are one printable line, fit for a client.
absl::Status ReadJson(std::string_view text, const JsonLimits& limits, nlohmann::json* value);
/// Keys keep their order.
absl::Status ReadJson(std::string_view text, const JsonLimits& limits, nlohmann::ordered_json* value);

}  // namespace shoal
