// Internal to the HTTP server: one client, and what all of them share.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

// Last: Asio of Boost 1.74 uses std::exchange without its header.
#include <boost/asio.hpp>
#include <boost/beast/http.hpp>

#include "api/http/body.h"
#include "api/http/origin.h"
#include "api/http/server.h"
#include "api/http/text.h"
#include "base/log_throttle.h"
#include "tls/session.h"

namespace shoal {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

class HttpConnection;

// What all connections of a server share.
struct HttpShared {
  asio::io_context io;  // First: outlives the sockets of connections that a slow handler still holds.
  HttpServerOptions options;
  OriginPolicy origins{{}};
  std::vector<HttpRoute> routes;
  std::unique_ptr<asio::thread_pool> handlers;
  std::unique_ptr<asio::thread_pool> slow_handlers;
  std::atomic<int> slow_requests = 0;
  std::mutex mutex;
  std::condition_variable emptied;
  std::set<HttpConnection*> open;
  std::atomic<bool> stopping = false;
  std::atomic<bool> stopped = false;  // Nothing runs any more: what is posted would never be freed.
  LogThrottle failures{std::chrono::seconds(10)};

  std::string error_body(int status, const std::string& message) const {
    return options.error_body ? options.error_body(status, message) : message + "\n";
  }

  /// Has take_pieces() called soon, on an I/O thread: one wake-up for all connections that are announced meanwhile.
  void announce(std::shared_ptr<HttpConnection> connection);
  /// Forgets who is announced: no I/O thread runs any more.
  void forget_announced();

  /// Whether a new connection from `network` may be one as all others, or only a reserved one, for urgent
  /// routes. Makes room where it can.
  bool admit(const std::string& network);
  /// Closes a connection that has waited for its client so long, of `network` unless that is empty. False if
  /// there is none.
  bool dismiss_one(const std::string& network, Duration at_least);
  /// Closes the oldest of the reserved connections if there are too many of them.
  void bound_reserved();

 private:
  HttpConnection* to_dismiss(const std::string& network, int64_t since_ns);  // With the mutex held.

  std::mutex announced_mutex_;
  std::vector<std::shared_ptr<HttpConnection>> announced_;
};

/// What a connection is at, those first that can best be closed where room is needed. kClosing: as good as
/// gone.
enum class HttpActivity : uint8_t { kLingering, kIdle, kReceiving, kAnswering, kClosing };

/// The address of a peer as far as connections are counted together.
std::string HttpNetworkOf(const asio::ip::address& address);

// One client. Everything but the marked members runs on its strand.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(tcp::socket socket, std::shared_ptr<HttpShared> shared, const asio::ip::address& peer,
                 bool reserved)
      : shared_(std::move(shared)),
        peer_(peer.to_string()),
        network_(HttpNetworkOf(peer)),
        reserved_(reserved),
        socket_(std::move(socket)),
        read_timer_(socket_.get_executor()),
        write_timer_(socket_.get_executor()) {
    if (shared_->options.tls != nullptr) tls_.emplace(shared_->options.tls->context());
    std::lock_guard lock(shared_->mutex);
    shared_->open.insert(this);
  }
  ~HttpConnection() {
    std::lock_guard lock(shared_->mutex);
    shared_->open.erase(this);
    shared_->emptied.notify_all();
  }

  void start() {
    post([this] {
      ErrorCode ignored;
      socket_.set_option(tcp::no_delay(true), ignored);
      socket_.set_option(asio::socket_base::keep_alive(true), ignored);
      socket_.non_blocking(true, ignored);
      begin_request();
      start_read();
    });
  }
  // Closes unless it is being answered: another connection needs the room. From any thread.
  void dismiss() {
    activity_ = HttpActivity::kClosing;  // At once: nobody is to dismiss it again.
    post([this] {
      if (half_a_request())
        return answer_error(408, "the request did not arrive before others needed the room");
      if (state_ != State::kHandling) return close();
      activity_ = HttpActivity::kAnswering;  // A request came in time.
    });
  }
  // Closes where nothing is in flight; otherwise after the answer.
  void retire() {
    post([this] {
      keep_alive_ = false;
      if (state_ == State::kReading && inbox_.empty()) close();
    });
  }
  void cut() {
    post([this] { close(); });
  }

  // For ResponseWriter, from any thread. `exchange` is the request that the writer belongs to: what comes
  // after its answer must not touch the next one.
  void send(uint64_t exchange, HttpResponse response) {
    post_answer(exchange,
                [this, response = std::move(response)]() mutable { send_now(std::move(response)); });
  }
  void begin_stream(uint64_t exchange, int status, std::string content_type, HttpHeaders headers) {
    post_answer(exchange,
                [this, status, content_type = std::move(content_type), headers = std::move(headers)] {
                  chunked_ = http_version_ >= 11;
                  if (!chunked_) keep_alive_ = false;
                  HttpHeaders all = headers;
                  all.emplace_back("Cache-Control", "no-cache");
                  all.emplace_back("X-Accel-Buffering", "no");  // Or nginx holds pieces back.
                  if (chunked_) all.emplace_back("Transfer-Encoding", "chunked");
                  begin_answer(status, content_type, std::move(all));
                });
  }
  bool write(uint64_t exchange, std::string_view piece) {
    if (gone_ || piece.empty()) return !gone_;
    const auto bytes = static_cast<int64_t>(piece.size());
    if ((posted_bytes_ += bytes) + unread_bytes_ > shared_->options.unread_bytes_max) {
      cut();
      return false;
    }
    if (add_piece(exchange, piece)) shared_->announce(shared_from_this());
    return true;
  }
  /// Puts what was written since the last time into the output.
  void serve_pieces() {
    asio::dispatch(socket_.get_executor(), [self = shared_from_this()] { self->take_pieces(); });
  }
  void end_stream(uint64_t exchange) {
    post_answer(exchange, [this] {
      if (!begun_) return;
      take_pieces();
      if (chunked_ && !head_) put(std::string(kHttpLastChunk));
      finish_answer();
    });
  }
  void on_disconnect(uint64_t exchange, std::function<void()> callback) {
    post([this, exchange, callback = std::move(callback)]() mutable {
      if (exchange != exchange_ || finished_) return;
      if (gone_) return callback();
      disconnect_callback_ = std::move(callback);
    });
  }
  void abandon(uint64_t exchange) {
    post_answer(exchange, [this] {
      if (begun_) return close();
      send_now({.status = 500, .body = shared_->error_body(500, "the server gave no answer")});
    });
  }
  void set_subject(uint64_t exchange, AdminSubject subject) {
    post_answer(exchange, [this, subject = std::move(subject)]() mutable {
      if (admin_.has_value()) admin_->subject = std::move(subject);
    });
  }
  bool gone() const { return gone_; }

  // For HttpShared, from any thread.
  const std::string& network() const { return network_; }
  bool reserved() const { return reserved_; }
  HttpActivity activity() const { return activity_; }
  int64_t since_ns() const { return since_ns_; }

 private:
  enum class State : uint8_t { kReading, kHandling, kLingering, kClosed };
  using Parser = http::request_parser<http::string_body>;

  template <typename F>
  void post(F&& f) {
    if (shared_->stopped) return;
    asio::post(socket_.get_executor(),
               [self = shared_from_this(), f = std::forward<F>(f)]() mutable { f(); });
  }

  bool answering(uint64_t exchange) const {
    return exchange == exchange_ && state_ == State::kHandling && !finished_;
  }
  bool half_a_request() const {
    return state_ == State::kReading && (parser_->got_some() || !inbox_.empty());
  }
  template <typename F>
  void post_answer(uint64_t exchange, F&& f) {
    post([this, exchange, f = std::forward<F>(f)]() mutable {
      if (answering(exchange)) f();
    });
  }

  void begin_request();
  void start_read();
  bool take_bytes(size_t bytes);
  bool decrypt(std::string_view bytes);
  void put_raw(std::string bytes);
  void on_read(const ErrorCode& error, size_t bytes);
  void on_end_of_input(const ErrorCode& error);
  void parse();
  void parse_failed(const ErrorCode& error);
  void dispatch();
  std::optional<std::string> read_request(Parser::value_type message, HttpRequest& request);
  void route(HttpRequest request);
  void answer_options(const HttpRequest& request, const std::string& allowed);
  void run_handler(const HttpRoute& route, HttpRequest request);
  void refuse(HttpRefusal refusal);
  void answer_error(int status, const std::string& message);
  void send_now(HttpResponse response);
  static void AddSecurityHeaders(HttpHeaders& headers);
  void begin_answer(int status, const std::string& content_type, HttpHeaders headers);
  void finish_answer();
  void after_answer();
  void put(std::string bytes);
  bool add_piece(uint64_t exchange, std::string_view piece);
  void take_pieces();
  void flush();
  void await_room();
  void linger();
  void close();
  void enter(HttpActivity activity);
  void watch_reading(Duration limit);
  void watch_writing();

  const std::shared_ptr<HttpShared> shared_;
  const std::string peer_;
  const std::string network_;
  const bool reserved_;
  tcp::socket socket_;
  std::optional<TlsSession> tls_;  // Of an HTTPS port.
  bool tls_began_ = false;         // Its client sent something.
  asio::steady_timer read_timer_;
  asio::steady_timer write_timer_;

  State state_ = State::kReading;
  std::array<char, 16 << 10> chunk_;
  std::string inbox_;  // Received, not parsed.
  bool reading_ = false;
  bool input_ended_ = false;  // The client closed its sending side.

  std::optional<Parser> parser_;
  bool continue_sent_ = false;
  bool keep_alive_ = true;
  bool head_ = false;
  unsigned http_version_ = 11;
  uint64_t exchange_ = 0;  // Counts the requests.
  std::string route_;      // Of the request being answered, for on_response.
  std::string request_id_;
  std::string request_line_;        // "POST /v1/completions", for the log.
  std::optional<AdminCall> admin_;  // Of a request that is to be recorded.
  HttpHeaders origin_headers_;      // For the page that sent the request.
  std::shared_ptr<void> held_;      // HttpAdmission::held

  bool begun_ = false;     // The answer's headers are out.
  bool finished_ = false;  // The answer is complete in the output.
  bool chunked_ = false;
  std::string outbox_;  // To be written after what is being written.
  std::string writing_;
  size_t written_ = 0;
  std::function<void()> disconnect_callback_;

  // Any thread, with the mutex held: pieces of the body on their way to the output. What is written while the I/O threads
  // are busy becomes one write, and one chunk.
  std::mutex pieces_mutex_;
  std::string pieces_;
  uint64_t pieces_of_ = 0;  // The exchange that they belong to.
  bool announced_ = false;

  // Any thread:
  std::atomic<bool> gone_ = false;
  std::atomic<int64_t> posted_bytes_ = 0;  // On their way to the output.
  std::atomic<int64_t> unread_bytes_ = 0;  // In the output.
  std::atomic<HttpActivity> activity_ = HttpActivity::kIdle;
  std::atomic<int64_t> since_ns_ = NowNs();  // When that began: at first, in the order of accepting.
};

}  // namespace shoal
