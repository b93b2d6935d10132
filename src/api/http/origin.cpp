#include "api/http/origin.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/http/text.h"

namespace shoal {
namespace {

constexpr std::string_view kPreflightSeconds = "600";
constexpr size_t kOriginBytesMax = 512;  ///< A name has 253; patterns take longer for longer texts.

/// "localhost" of "localhost:8000", "[::1]" of "[::1]:8000".
std::string_view WithoutPort(std::string_view host) {
  const size_t bracket = host.rfind(']');
  const size_t colon = host.rfind(':');
  return colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket)
             ? host.substr(0, colon)
             : host;
}

/// An address in digits: no name server decides where it leads.
bool IsAddress(std::string_view host) {
  if (host.starts_with('[')) return host.ends_with(']');
  return !host.empty() && host.find_first_not_of("0123456789.") == std::string_view::npos;
}

}  // namespace

bool IsSameOrigin(std::string_view origin, std::string_view host, bool tls) {
  const size_t scheme = origin.find("://");
  if (scheme == std::string_view::npos || host.empty()) return false;
  const std::string asked = LowerCase(host);
  if (LowerCase(origin.substr(scheme + 3)) != asked) return false;
  if (tls && origin.substr(0, scheme) == "https") return true;
  const std::string_view name = WithoutPort(asked);
  return IsAddress(name) || name == "localhost" || name.ends_with(".localhost");
}

bool OriginPolicy::allows(std::string_view origin) const {
  if (origin.size() > kOriginBytesMax) return false;
  return std::ranges::any_of(allowed_, [&](const std::string& pattern) {
    return pattern == "*" || MatchesGlob(LowerCase(pattern), LowerCase(origin));
  });
}

std::optional<std::string> OriginPolicy::refuse(const HttpRequest& request, bool tls) const {
  if (request.method == "GET" || request.method == "HEAD") return std::nullopt;
  const std::string_view origin = request.header("origin");
  if (origin.empty()) {
    // Old browsers do not send Origin with forms; those in between say at least that it is another site's page.
    const std::string_view site = request.header("sec-fetch-site");
    if (site.empty() || site == "same-origin" || site == "none") return std::nullopt;
    return "a web page of another site sent this request without saying which (Origin)";
  }
  if (allows(origin) || IsSameOrigin(origin, request.header("host"), tls)) return std::nullopt;
  return fmt::format(
      "web pages of '{}' may not use this server; its operator can allow them with --cors-origins",
      IsPrintable(origin) ? origin : "?");
}

HttpHeaders OriginPolicy::answer_headers(const HttpRequest& request) const {
  if (allowed_.empty()) return {};
  HttpHeaders headers = {{"Vary", "Origin"}};
  const std::string_view origin = request.header("origin");
  if (origin.empty() || !IsPrintable(origin) || !allows(origin)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", origin);
  headers.emplace_back("Access-Control-Expose-Headers", "*");
  return headers;
}

bool OriginPolicy::IsPreflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && !request.header("origin").empty() &&
         !request.header("access-control-request-method").empty();
}

HttpHeaders OriginPolicy::preflight_headers(const HttpRequest& request, const std::string& methods) const {
  if (!allows(request.header("origin"))) return {};
  HttpHeaders headers = {{"Access-Control-Allow-Methods", methods},
                         {"Access-Control-Max-Age", std::string(kPreflightSeconds)}};
  const std::string_view wanted = request.header("access-control-request-headers");
  if (!wanted.empty() && IsPrintable(wanted)) headers.emplace_back("Access-Control-Allow-Headers", wanted);
  if (request.header("access-control-request-private-network") == "true") {
    headers.emplace_back("Access-Control-Allow-Private-Network", "true");
  }
  return headers;
}

}  // namespace shoal
