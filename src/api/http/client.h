// A small synchronous HTTP/1.1 client, one connection a request: for `shoal chat` and for tests.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

struct HttpReply {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  ///< Names in lower case.
  std::string body;                                          ///< Empty where the body went to a callback.

  std::string_view header(std::string_view name) const;
};

class HttpClient {
 public:
  HttpClient(std::string host, int port) : host_(std::move(host)), port_(port) {}
  /// "http://host:port" or "host:port", a path behind it being the prefix of all paths. InvalidArgument for
  /// another scheme.
  static absl::StatusOr<HttpClient> FromUrl(std::string_view url);

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

  std::string host_;
  int port_ = 0;
  std::string prefix_;
};

}  // namespace shoal
