// Which web pages may use the server: a browser sends whatever a page asks for, also to servers that only this machine
// reaches, and says in Origin whose page it is. Pure functions of a request's headers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/http/server.h"

namespace shoal {

class OriginPolicy {
 public:
  /// `allowed`: origins as browsers send them ("https://chat.example.org", "null"), in which '*' stands for any
  /// characters but '/'; "*" alone allows all. Empty: CORS is off.
  explicit OriginPolicy(std::vector<std::string> allowed) : allowed_(std::move(allowed)) {}

  /// Why a request must not be acted on: a page that is neither allowed nor served by this server sent it. Reading
  /// (GET, HEAD) is not refused: the browser keeps the answer from the page. tls: the request came over HTTPS, to this
  /// process itself.
  std::optional<std::string> refuse(const HttpRequest& request, bool tls = false) const;

  /// The headers by which the browser gives the answer to the page; empty where it must not.
  HttpHeaders answer_headers(const HttpRequest& request) const;

  /// Whether `request` asks for leave (OPTIONS) to send another one.
  static bool IsPreflight(const HttpRequest& request);
  /// The headers that grant it: `methods` are those of the path. Empty where the origin is not allowed.
  HttpHeaders preflight_headers(const HttpRequest& request, const std::string& methods) const;

 private:
  bool allows(std::string_view origin) const;

  std::vector<std::string> allowed_;
};

/// Whether a page of `origin` came from the server that is asked as `host`. False where that host is a name other than
/// localhost: an attacker's name may lead to this machine, and its page would then look like ours. Over TLS it may not: our
/// certificate does not have that name, so the browser sends nothing.
bool IsSameOrigin(std::string_view origin, std::string_view host, bool tls = false);

}  // namespace shoal
