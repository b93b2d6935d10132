// From a request's target to the route that answers it. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/http/server.h"

namespace shoal {

/// What a request line asks for.
struct HttpTarget {
  std::string path;   ///< Decoded, with single slashes; "*" for a server as a whole.
  std::string query;  ///< As sent, without the '?'.
};
/// Reads "/path?query", "http://host/path?query" (as for a proxy), or "*". False at a broken percent escape and for
/// anything else.
bool ParseHttpTarget(std::string_view target, HttpTarget& out);

/// Whether `path` is `pattern`, or below it where the pattern ends in "/*".
bool HttpRouteMatches(std::string_view pattern, std::string_view path);

struct RouteMatch {
  const HttpRoute* route = nullptr;  ///< Takes this method and path.
  const HttpRoute* known = nullptr;  ///< Takes this path, with whatever method.
  std::string path;                  ///< The one of the path's spellings that the route takes.
  std::string allowed;               ///< The methods that the path takes, "GET, HEAD, OPTIONS".
};
/// The route for a path as given. Where there is none: for it without its last slash, and with "/v1" once where it
/// stands twice, added where it is missing, left out where it is too much. That is how clients spell a base address.
/// HEAD is answered by the route of GET. The path "*" is no route, but takes all methods.
RouteMatch FindRoute(const std::vector<HttpRoute>& routes, std::string_view method, std::string_view path);

}  // namespace shoal
