// An HTTP/1.1 server: routes, keep-alive, streamed answers, and a clear end for every bad or vanished client.
// The only place that knows which HTTP library is used is server.cpp.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/https.h"
#include "api/http/repeat_key.h"
#include "base/clock.h"

namespace shoal {

struct HttpRequest {
  std::string method;  ///< "POST"
  std::string path;    ///< Decoded, without the query, as its route has it.
  std::string query;   ///< As sent, without the '?'.
  std::vector<std::pair<std::string, std::string>> headers;  ///< Names in lower case.
  std::string body;                                          ///< Decompressed.
  std::string id;      ///< X-Request-Id as sent, or made here; the answer has it, too.
  std::string caller;  ///< Who sent it, as `admit` says.

  /// The first header of this (lower-case) name, or "".
  std::string_view header(std::string_view name) const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

class HttpConnection;

/// What an answer's logs and traces say of its request.
struct RequestOrigin {
  std::string id;           ///< As HttpRequest::id.
  std::string name;         ///< Method and route: "POST /v1/completions".
  std::string traceparent;  ///< The header of this name, or "".
  Clock::time_point received{};
};

/// What a call of an admin route is about. Only its handler can tell: it alone reads the whole body, as what it is.
struct AdminSubject {
  std::string target;   ///< A node, a model, or layers of nodes; "" where the call names none.
  bool changes = true;  ///< The call is more than a question.
};

/// The answer to one request. All methods may be called from any thread; none blocks. A writer that is
/// dropped before its answer is complete gives 500, or cuts the stream.
class ResponseWriter {
 public:
  /// caller: as HttpRequest::caller.
  ResponseWriter(std::shared_ptr<HttpConnection> connection, uint64_t exchange, std::string caller = "");
  ~ResponseWriter();
  ResponseWriter(const ResponseWriter&) = delete;
  ResponseWriter& operator=(const ResponseWriter&) = delete;

  /// The whole answer.
  void send(HttpResponse response);

  /// Headers now, then pieces of the body as they come (chunked; until the connection closes for HTTP/1.0
  /// clients).
  void begin_stream(int status, std::string content_type, HttpHeaders headers = {});
  /// False once the client is gone, or has left more than the server's buffer unread: stop working for it.
  bool write(std::string_view piece);
  void end_stream();

  /// `callback` runs once, on a server thread, if the client goes away (or is cut) before the answer is
  /// complete; at once if it is gone already. A client that closes its sending side counts as gone half a
  /// second later.
  void on_disconnect(std::function<void()> callback);
  bool gone() const;
  /// What the call of an admin route is about, once its handler has read it; before the answer.
  void set_subject(AdminSubject subject);
  /// Whom it answers, as HttpServerOptions::admit says.
  const std::string& caller() const { return caller_; }
  /// By what its request is known again; nothing where the client does not say. Set before the handler runs.
  const std::optional<RepeatKey>& repeat_key() const { return repeat_key_; }
  void set_repeat_key(std::optional<RepeatKey> key) { repeat_key_ = key; }
  /// Set before the handler runs.
  const RequestOrigin& origin() const { return origin_; }
  void set_origin(RequestOrigin origin) { origin_ = std::move(origin); }

 private:
  const std::shared_ptr<HttpConnection> connection_;
  const uint64_t exchange_;
  const std::string caller_;
  std::optional<RepeatKey> repeat_key_;
  RequestOrigin origin_;
  bool complete_ = false;
};

/// Runs on one of the server's handler threads; may block for a while, and may keep the writer for later.
using HttpHandler = std::function<void(const HttpRequest&, std::shared_ptr<ResponseWriter>)>;

struct HttpRoute {
  std::string method;
  std::string path;  ///< Exact; or a prefix if it ends in "/*".
  HttpHandler handler;
  /// Answered even where all connections are taken and all handler threads are at work: the handler runs on
  /// an I/O thread, and must not block.
  bool urgent = false;
  /// Answered without asking `admit`.
  bool open = false;
  /// It changes what the server does for everybody, so that its calls are recorded.
  bool admin = false;
  /// Its handler asks other machines, or computes for long: it runs on threads for such handlers, so that it keeps no other
  /// request waiting. Where too many wait already, the answer is 503 with Retry-After.
  bool slow = false;
};

/// A call of an admin route, as it is answered.
struct AdminCall {
  std::string request_id;
  std::string caller;  ///< As HttpRequest::caller; "" where there are no keys, or the key is none.
  std::string peer;    ///< Its address.
  std::string method;
  std::string path;      ///< Without the query.
  AdminSubject subject;  ///< As it came in where the handler did not get to read it.
  int status = 0;
};

/// Whether a request may go to its handler.
struct HttpAdmission {
  std::optional<HttpResponse> refusal;
  std::string caller;          ///< For HttpRequest::caller.
  std::shared_ptr<void> held;  ///< Let go when the answer is complete, or the client gone.
};

struct HttpServerOptions {
  /// Addresses to listen on. "localhost" is 127.0.0.1 and ::1, where this machine has both.
  std::vector<std::string> hosts = {"127.0.0.1"};
  int port = 0;  ///< 0: the system chooses, one for all of `hosts`; see HttpServer::port.
  int io_threads = 2;
  int handler_threads = 4;
  int slow_threads = 2;       ///< For the handlers of slow routes.
  int slow_requests_max = 8;  ///< To slow routes at once, those included that wait for a thread.
  /// Never more than half of the process's descriptors. Where there is no room, the connection that has been
  /// idle for longest is closed, else one that has not finished its request; where all are being answered, a
  /// few more are taken, for urgent routes only.
  int connections_max = 4096;
  int connections_per_address_max = 3584;  ///< Of one IPv4 address, or one IPv6 network of 64 bits.
  int64_t header_bytes_max = 16 << 10;
  int64_t body_bytes_max = 8 << 20;
  int64_t unread_bytes_max = 1 << 20;  ///< What a client may leave unread of a stream before it is cut.
  Duration request_timeout =
      std::chrono::seconds(30);  ///< From the first byte of a request to its last: else 408.
  Duration idle_timeout = std::chrono::seconds(75);   ///< Between requests of a kept connection.
  Duration write_timeout = std::chrono::seconds(30);  ///< Within which a client must have read what was sent.
  /// The port speaks HTTPS with it; nullptr: HTTP.
  std::shared_ptr<HttpsCertificate> tls;
  /// Web pages that may use the server, as OriginPolicy has them; those that it serves itself always may.
  std::vector<std::string> cors_origins;
  /// Asked on an I/O thread before a route's handler; must not block. Empty: all are admitted.
  std::function<HttpAdmission(const HttpRequest& request)> admit;
  /// The body (JSON) of the errors that the server itself answers: 400, 403, 404, 405, 408, 413, 415, 431, 500, 503.
  std::function<std::string(int status, const std::string& message)> error_body;
  /// Called for every answer begun, from any thread. May be empty.
  std::function<void(const std::string& route, int status)> on_response;
  /// Called for every answer begun to a request for a route of `admin`, refusals included; from any thread. May be empty.
  std::function<void(const AdminCall& call)> on_admin;
};

class HttpServer {
 public:
  /// Listens and serves. Unavailable says why the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpServerOptions options,
                                                           std::vector<HttpRoute> routes);
  /// Stops, cutting what is open.
  ~HttpServer();

  int port() const;
  int connections() const;

  /// Accepts nobody new, waits up to `patience` for the answers in flight, then cuts the rest. Idempotent.
  void stop(Duration patience);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// "Not Found" for 404.
std::string_view HttpReason(int status);

}  // namespace shoal
