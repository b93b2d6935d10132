// JSON as shoal reads it from the files of a model: errors name the file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace shoal {

/// Reads `text` as by ReadJson of base/json.h, nested 32 deep at most. InvalidArgument, starting with `where`.
absl::Status ParseStrictJson(std::string_view text, std::string_view where, nlohmann::json* value);

/// A short, printable picture of a value for messages: at most 60 characters, ASCII.
std::string JsonExcerpt(const nlohmann::json& value);

/// `text` with everything but printable ASCII replaced by '?', cut to `chars_max`: file contents fit for a
/// message.
std::string Printable(std::string_view text, size_t chars_max);

/// Whether `text` is UTF-8 (RFC 3629: no surrogates, no overlong forms), as what is written as JSON must be.
bool IsUtf8(std::string_view text);

}  // namespace shoal
