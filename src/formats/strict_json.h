// JSON as shoal reads it from files: bounded nesting, no duplicate keys, errors that name the file. Internal
// to weights/.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace shoal {

/// Parses `text` into `*value`. InvalidArgument, starting with `where`, for anything that is not one JSON
/// value (trailing text, invalid UTF-8, NaN), for an object with a duplicate key, and for nesting deeper
/// than 32.
absl::Status ParseStrictJson(std::string_view text, std::string_view where, nlohmann::json* value);

/// A short, printable picture of a value for messages: at most 60 characters, ASCII.
std::string JsonExcerpt(const nlohmann::json& value);

/// `text` with everything but printable ASCII replaced by '?', cut to `chars_max`: file contents fit for a
/// message.
std::string Printable(std::string_view text, size_t chars_max);

/// Whether `text` is UTF-8 (RFC 3629: no surrogates, no overlong forms), as what is written as JSON must be.
bool IsUtf8(std::string_view text);

}  // namespace shoal
