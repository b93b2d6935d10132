// A small synchronous HTTP/1.1 client, one connection a request: for `shoal chat` and for tests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "tls/session.h"

namespace shoal {

struct HttpReply {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  ///< Names in lower case.
  std::string body;                                          ///< Empty where the body went to a callback.

  std::string_view header(std::string_view name) const;
};

/// Where a server is.
struct HttpBase {
  std::string host;
  int port = 80;
  bool tls =
      false;  ///< https, with a certificate that the system's authorities, or those of SSL_CERT_FILE, vouch for.
  std::string prefix;  ///< Of all paths; "" or "/...", without "/v1" at its end, which is in our paths.
};
/// Reads "http://host:port/prefix", "https://..." or "host:port". InvalidArgument for another scheme.
absl::StatusOr<HttpBase> ParseHttpBase(std::string_view url);

/// A whole URL: where to ask, and for what.
struct HttpUrl {
  HttpBase base;       ///< Without a prefix.
  std::string target;  ///< "/path?query" as it was written; "/" where there is none.
};
/// Reads "http://HOST[:PORT][/PATH][?QUERY]" or "https://...". InvalidArgument for anything else, also for a user, a
/// fragment, or characters that a URL must escape; the message has no part of it but the scheme: the rest may be secret.
absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view url);

class HttpClient {
 public:
  HttpClient(std::string host, int port) : base_{.host = std::move(host), .port = port, .prefix = ""} {}
  explicit HttpClient(HttpBase base) : base_(std::move(base)) {}
  /// Of https, with a server whose certificate is of these authorities (PEM; "": the system's).
  /// InvalidArgument: they are no PEM.
  static absl::StatusOr<HttpClient> Https(HttpBase base, const std::string& authorities = "");
  /// As ParseHttpBase.
  static absl::StatusOr<HttpClient> FromUrl(std::string_view url);

  /// Sends this key with all requests, as OpenAI's clients do; empty: none.
  void set_api_key(std::string key) { api_key_ = std::move(key); }

  /// Unavailable if the server cannot be reached or hangs up, DeadlineExceeded, DataLoss for what is not
  /// HTTP/1.1.
  absl::StatusOr<HttpReply> get(const std::string& path, Deadline deadline) const;
  absl::StatusOr<HttpReply> post(const std::string& path, const std::string& json, Deadline deadline) const;

  /// Posts and calls `on_data` with the data of each server-sent event as it comes, until the end, or until
  /// it returns false. A reply that is not 200 has its body in the result instead.
  absl::StatusOr<HttpReply> post_events(const std::string& path, const std::string& json, Deadline deadline,
                                        const std::function<bool(std::string_view data)>& on_data) const;

 private:
  using Consumer = std::function<bool(std::string_view piece)>;
  absl::StatusOr<HttpReply> exchange(const std::string& request, Deadline deadline,
                                     const Consumer* consumer) const;
  std::string request_text(std::string_view method, const std::string& path, const std::string& body) const;

  HttpBase base_;
  std::shared_ptr<const TlsContext> tls_;  ///< Of https.
  std::string api_key_;
};

}  // namespace shoal
