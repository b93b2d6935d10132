#include "api/http/routing.h"

#include <algorithm>
#include <utility>

#include "api/http/text.h"

namespace shoal {
namespace {

constexpr std::string_view kBase = "/v1";

std::string SingleSlashes(std::string_view path) {
  std::string out;
  for (const char c : path) {
    if (c != '/' || !out.ends_with('/')) out.push_back(c);
  }
  return out;
}

/// Whether the path has `/v1` as its first part.
bool BelowBase(std::string_view path) {
  return path.starts_with(kBase) && (path.size() == kBase.size() || path[kBase.size()] == '/');
}

/// The ways to write a path, the given one first.
std::vector<std::string> Spellings(std::string_view path) {
  std::vector<std::string> all = {std::string(path)};
  if (path.size() > 1 && path.ends_with('/')) all.emplace_back(path.substr(0, path.size() - 1));
  std::string_view below = all.back();
  while (BelowBase(below) && BelowBase(below.substr(kBase.size()))) below.remove_prefix(kBase.size());
  if (below.size() != all.back().size()) all.emplace_back(below);
  all.push_back(BelowBase(below) ? std::string(below.substr(kBase.size()))
                                 : std::string(kBase) + std::string(below));
  return all;
}

RouteMatch FindExactly(const std::vector<HttpRoute>& routes, std::string_view method, std::string_view path) {
  RouteMatch match;
  const HttpRoute* get = nullptr;
  for (const HttpRoute& route : routes) {
    if (path != "*" && !HttpRouteMatches(route.path, path)) continue;
    if (match.known == nullptr && path != "*") match.known = &route;
    if (get == nullptr && route.method == "GET") get = &route;
    if (match.route == nullptr && route.method == method && path != "*") match.route = &route;
    if (match.allowed.find(route.method) == std::string::npos) match.allowed += route.method + ", ";
    if (route.method == "GET" && match.allowed.find("HEAD") == std::string::npos) match.allowed += "HEAD, ";
  }
  match.allowed += "OPTIONS";
  if (method == "HEAD" && match.route == nullptr && path != "*") match.route = get;
  return match;
}

}  // namespace

bool ParseHttpTarget(std::string_view target, HttpTarget& out) {
  const std::string scheme = LowerCase(target.substr(0, 8));
  if (scheme.starts_with("http://") || scheme == "https://") {
    target.remove_prefix(target.find("//") + 2);
    target.remove_prefix(std::min(target.find_first_of("/?"), target.size()));
  } else if (target != "*" && !target.starts_with('/')) {
    return false;
  }
  const size_t mark = target.find('?');
  if (mark != std::string_view::npos) out.query = target.substr(mark + 1);
  const std::string path = SingleSlashes(target.substr(0, mark));
  return PercentDecode(path.empty() ? "/" : path, out.path);
}

bool HttpRouteMatches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with("/*")) return pattern == path;
  pattern.remove_suffix(1);
  return path.starts_with(pattern) && path.size() > pattern.size();
}

RouteMatch FindRoute(const std::vector<HttpRoute>& routes, std::string_view method, std::string_view path) {
  if (path == "*") return FindExactly(routes, method, path);
  RouteMatch match;
  for (std::string& spelling : Spellings(path)) {
    match = FindExactly(routes, method, spelling);
    match.path = std::move(spelling);
    if (match.known != nullptr) return match;
  }
  return match;
}

}  // namespace shoal
