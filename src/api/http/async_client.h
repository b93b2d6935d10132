// Thousands of HTTP requests at once to one server, in one thread: for load tests. Connections are kept and used again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "api/http/server.h"
#include "base/clock.h"

namespace shoal {

/// How an exchange ended, if it was not by a whole answer.
enum class HttpFailure : uint8_t { kNone, kNotConnected, kHungUp, kTimedOut, kNotHttp };

/// What becomes of one request. Called from AsyncHttpClient::run.
class HttpObserver {
 public:
  virtual ~HttpObserver() = default;
  virtual void on_head(int status) = 0;
  /// A piece of the body, never empty.
  virtual void on_body(std::string_view piece) = 0;
  /// The end; nothing follows. `why` is empty where `failure` is kNone.
  virtual void on_end(HttpFailure failure, const std::string& why) = 0;
};

class AsyncHttpClient {
 public:
  struct Options {
    std::string host;
    int port = 0;
    std::string prefix;   ///< Of all paths.
    HttpHeaders headers;  ///< Of all requests, beside Host, Content-Type and Content-Length.
  };
  /// Resolves the host: Unavailable where it has no address.
  static absl::StatusOr<std::unique_ptr<AsyncHttpClient>> Create(Options options);
  ~AsyncHttpClient();

  /// Posts `json`; the answer must be whole by `deadline`. Before run(), or from what run() calls.
  void post(const std::string& path, const std::string& json, Deadline deadline,
            std::shared_ptr<HttpObserver> observer);
  /// Calls `f` at a time. As above.
  void call_at(Clock::time_point time, std::function<void()> f);

  /// Returns when all requests and calls have ended.
  void run();

 private:
  struct Impl;
  explicit AsyncHttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
