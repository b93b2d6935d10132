// The bytes of HTTP/1.1 messages that we write ourselves, and small readings of theirs. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/http/server.h"

namespace shoal {

/// Status line and headers, up to and with the empty line.
std::string HttpHead(int status, std::string_view reason,
                     const std::vector<std::pair<std::string, std::string>>& headers);

/// One chunk of a chunked body; `piece` must not be empty, for an empty chunk is the last one.
std::string HttpChunk(std::string_view piece);
inline constexpr std::string_view kHttpLastChunk = "0\r\n\r\n";

/// Decodes %XX into `out`; false at a broken escape.
bool PercentDecode(std::string_view text, std::string& out);

std::string LowerCase(std::string_view text);

/// Whether `path` is `pattern`, or below it where the pattern ends in "/*".
bool HttpRouteMatches(std::string_view pattern, std::string_view path);

struct RouteMatch {
  const HttpRoute* route = nullptr;  ///< Takes this method and path.
  const HttpRoute* known = nullptr;  ///< Takes this path, with whatever method.
  std::string allowed;               ///< The methods that the path takes, "GET, POST".
};
RouteMatch FindRoute(const std::vector<HttpRoute>& routes, std::string_view method, std::string_view path);

}  // namespace shoal
