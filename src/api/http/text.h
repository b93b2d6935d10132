// The bytes of HTTP/1.1 messages that we write ourselves, and small readings of theirs. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

/// Status line and headers, up to and with the empty line.
std::string HttpHead(int status, std::string_view reason,
                     const std::vector<std::pair<std::string, std::string>>& headers);

/// One chunk of a chunked body; `piece` must not be empty, for an empty chunk is the last one.
std::string HttpChunk(std::string_view piece);
inline constexpr std::string_view kHttpLastChunk = "0\r\n\r\n";

/// Decodes %XX into `out`; false at a broken escape.
bool PercentDecode(std::string_view text, std::string& out);

/// `text` as a value in a query: all but letters, digits and "-._~" as %XX.
std::string PercentEncode(std::string_view text);

/// The value of `key` in "a=b&key=value", its percent escapes read; nothing where it is missing, or one is broken.
std::optional<std::string> QueryValue(std::string_view query, std::string_view key);

std::string LowerCase(std::string_view text);

/// A date as HTTP writes it: "Sun, 06 Nov 1994 08:49:37 GMT".
std::string HttpDate(int64_t unix_seconds);

/// A time as RFC 3339 and so JSON writes it: "1994-11-06T08:49:37Z".
std::string UtcText(int64_t unix_seconds);

/// Whether all of `text` is printable ASCII, so that it may be sent as (part of) a header.
bool IsPrintable(std::string_view text);

/// Whether `text` matches `pattern`, in which each '*' stands for any characters but '/'.
bool MatchesGlob(std::string_view pattern, std::string_view text);

}  // namespace shoal
