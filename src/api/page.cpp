#include "api/page.h"

#include <string>

namespace shoal {
namespace {

/// No script, style or connection but from this server, nothing inline, and no frame around the page.
constexpr const char* kContentPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

HttpHeaders HeadersOf(const PageFile& file) {
  return {{"ETag", std::string(file.etag)},
          {"Cache-Control", file.immutable ? "public, max-age=31536000, immutable" : "no-cache"},
          {"Content-Security-Policy", kContentPolicy},
          {"X-Content-Type-Options", "nosniff"},
          {"X-Frame-Options", "DENY"},  // For browsers that do not know frame-ancestors.
          {"Referrer-Policy", "no-referrer"},
          {"Cross-Origin-Opener-Policy", "same-origin"},
          {"Cross-Origin-Resource-Policy", "same-origin"},
          {"Permissions-Policy", "camera=(), geolocation=(), microphone=()"}};
}

}  // namespace

bool MatchesETag(std::string_view if_none_match, std::string_view etag) {
  while (!if_none_match.empty()) {
    const size_t comma = if_none_match.find(',');
    std::string_view one = if_none_match.substr(0, comma);
    if_none_match.remove_prefix(comma == std::string_view::npos ? if_none_match.size() : comma + 1);
    while (!one.empty() && (one.front() == ' ' || one.front() == '\t')) one.remove_prefix(1);
    while (!one.empty() && (one.back() == ' ' || one.back() == '\t')) one.remove_suffix(1);
    if (one.starts_with("W/")) one.remove_prefix(2);
    if (one == "*" || one == etag) return true;
  }
  return false;
}

std::vector<HttpRoute> PageRoutes(std::span<const PageFile> files) {
  std::vector<HttpRoute> routes;
  for (const PageFile& file : files) {
    HttpRoute route{.method = "GET", .path = std::string(file.path)};
    route.open = true;
    route.handler = [file](const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
      HttpResponse response{.status = 304, .content_type = "", .headers = HeadersOf(file)};
      if (!MatchesETag(request.header("if-none-match"), file.etag)) {
        response.status = 200;
        response.content_type = file.content_type;
        response.body = file.bytes;
      }
      writer->send(std::move(response));
    };
    routes.push_back(std::move(route));
  }
  return routes;
}

}  // namespace shoal
