#include "api/http/server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/http.hpp>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "api/http/text.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

namespace {

/// Bytes read ahead of a request that is still being answered (pipelining); beyond, the client waits.
constexpr size_t kReadAheadMax = 64 << 10;
/// After an error the client may still be sending: for this long it is thrown away, so that the client sees
/// the answer and not a reset connection.
constexpr Duration kLinger = std::chrono::seconds(2);
/// A client that closed its sending side has left, or has only said all it will (nc -N): an answer that is
/// ready so soon still goes out; then the client counts as gone.
constexpr Duration kHalfCloseGrace = std::chrono::milliseconds(500);

}  // namespace

// What all connections of a server share.
struct HttpShared {
  asio::io_context io;  // First: outlives the sockets of connections that a slow handler still holds.
  HttpServerOptions options;
  std::vector<HttpRoute> routes;
  std::unique_ptr<asio::thread_pool> handlers;
  std::mutex mutex;
  std::condition_variable emptied;
  std::set<HttpConnection*> open;
  std::atomic<bool> stopping = false;
  std::atomic<bool> stopped = false;  // Nothing runs any more: what is posted would never be freed.

  std::string error_body(int status, const std::string& message) const {
    return options.error_body ? options.error_body(status, message) : message + "\n";
  }
};

// One client. Everything but the marked members runs on its strand.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(tcp::socket socket, std::shared_ptr<HttpShared> shared)
      : shared_(std::move(shared)),
        socket_(std::move(socket)),
        read_timer_(socket_.get_executor()),
        write_timer_(socket_.get_executor()) {
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
      begin_request();
      start_read();
    });
  }
  void refuse(int status, const std::string& message) {
    post([this, status, message] { answer_error(status, message); });
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
                  if (chunked_) all.emplace_back("Transfer-Encoding", "chunked");
                  begin_answer(status, content_type, std::move(all));
                });
  }
  bool write(uint64_t exchange, std::string piece) {
    if (gone_ || piece.empty()) return !gone_;
    const auto bytes = static_cast<int64_t>(piece.size());
    if ((posted_bytes_ += bytes) + unread_bytes_ > shared_->options.unread_bytes_max) {
      cut();
      return false;
    }
    post([this, exchange, bytes, piece = std::move(piece)] {
      posted_bytes_ -= bytes;
      if (answering(exchange) && begun_) put(chunked_ ? HttpChunk(piece) : piece);
    });
    return true;
  }
  void end_stream(uint64_t exchange) {
    post_answer(exchange, [this] {
      if (!begun_) return;
      if (chunked_) put(std::string(kHttpLastChunk));
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
  bool gone() const { return gone_; }

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
  void on_read(const ErrorCode& error, size_t bytes);
  void on_end_of_input(const ErrorCode& error);
  void parse();
  void parse_failed(const ErrorCode& error);
  void dispatch();
  void run_handler(HttpHandler handler, HttpRequest request);
  void answer_error(int status, const std::string& message);
  void send_now(HttpResponse response);
  void begin_answer(int status, const std::string& content_type, HttpHeaders headers);
  void finish_answer();
  void after_answer();
  void put(std::string bytes);
  void flush();
  void on_written(const ErrorCode& error, size_t bytes);
  void linger();
  void close();
  void watch_reading(Duration limit);
  void watch_writing();

  const std::shared_ptr<HttpShared> shared_;
  tcp::socket socket_;
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

  bool begun_ = false;     // The answer's headers are out.
  bool finished_ = false;  // The answer is complete in the output.
  bool chunked_ = false;
  std::string outbox_;  // To be written after what is being written.
  std::string writing_;
  size_t written_ = 0;
  std::function<void()> disconnect_callback_;

  // Any thread:
  std::atomic<bool> gone_ = false;
  std::atomic<int64_t> posted_bytes_ = 0;  // On their way to the output.
  std::atomic<int64_t> unread_bytes_ = 0;  // In the output.
};

void HttpConnection::begin_request() {
  state_ = State::kReading;
  ++exchange_;
  begun_ = finished_ = continue_sent_ = chunked_ = head_ = false;
  http_version_ = 11;
  route_.clear();
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(static_cast<uint32_t>(shared_->options.header_bytes_max));
  parser_->body_limit(static_cast<uint64_t>(shared_->options.body_bytes_max));
  watch_reading(inbox_.empty() ? shared_->options.idle_timeout : shared_->options.request_timeout);
}

// There is always a read in flight, also while a request is answered: it is how a vanished client is noticed.
void HttpConnection::start_read() {
  if (reading_ || input_ended_ || state_ == State::kClosed ||
      (state_ == State::kHandling && inbox_.size() >= kReadAheadMax))
    return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_),
                          [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
                            self->reading_ = false;
                            self->on_read(error, bytes);
                          });
}

void HttpConnection::on_read(const ErrorCode& error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) return on_end_of_input(error);
  if (state_ == State::kLingering) return start_read();
  const bool first = state_ == State::kReading && inbox_.empty() && !parser_->got_some();
  inbox_.append(chunk_.data(), bytes);
  if (state_ == State::kReading) {
    if (first) watch_reading(shared_->options.request_timeout);
    parse();
  }
  start_read();
}

void HttpConnection::on_end_of_input(const ErrorCode& error) {
  if (error == asio::error::eof && half_a_request()) {
    input_ended_ = true;
    return answer_error(400, "the request ended before it was complete");
  }
  if (error != asio::error::eof || state_ != State::kHandling) return close();
  input_ended_ = true;
  keep_alive_ = false;
  watch_reading(kHalfCloseGrace);
}

void HttpConnection::parse() {
  if (inbox_.empty()) return;
  ErrorCode error;
  const size_t used = parser_->put(asio::buffer(inbox_), error);
  inbox_.erase(0, used);
  if (error == http::error::need_more) error = {};
  if (error) return parse_failed(error);
  if (parser_->is_done()) return dispatch();
  if (parser_->is_header_done() && !continue_sent_) {
    continue_sent_ = true;
    if (http::token_list(parser_->get()[http::field::expect]).exists("100-continue")) {
      put("HTTP/1.1 100 Continue\r\n\r\n");
    }
  }
}

void HttpConnection::parse_failed(const ErrorCode& error) {
  const HttpServerOptions& options = shared_->options;
  if (error == http::error::body_limit) {
    return answer_error(413, fmt::format("the body is larger than the {} bytes that this server takes",
                                         options.body_bytes_max));
  }
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return answer_error(431, fmt::format("the headers are larger than the {} bytes that this server takes",
                                         options.header_bytes_max));
  }
  answer_error(400, fmt::format("the request is not HTTP/1.1: {}", error.message()));
}

void HttpConnection::dispatch() {
  auto message = parser_->release();
  read_timer_.cancel();
  state_ = State::kHandling;
  http_version_ = message.version();
  keep_alive_ = message.keep_alive() && !shared_->stopping;
  HttpRequest request{.method = std::string(message.method_string())};
  head_ = request.method == "HEAD";
  const std::string target(message.target());
  const size_t mark = target.find('?');
  if (mark != std::string::npos) request.query = target.substr(mark + 1);
  if (!PercentDecode(std::string_view(target).substr(0, mark), request.path)) {
    return answer_error(400, fmt::format("the path '{}' has a broken percent escape", target));
  }
  for (const auto& field : message) {
    request.headers.emplace_back(LowerCase(std::string_view(field.name_string())),
                                 std::string(field.value()));
  }
  request.body = std::move(message.body());

  const RouteMatch match = FindRoute(shared_->routes, request.method, request.path);
  if (match.known != nullptr) route_ = match.known->path;
  if (match.route != nullptr) return run_handler(match.route->handler, std::move(request));
  // The connection stays usable: the request itself was well formed.
  if (match.known == nullptr) {
    const std::string text = fmt::format("there is nothing at {} {}", request.method, request.path);
    return send_now({.status = 404, .body = shared_->error_body(404, text)});
  }
  const std::string text =
      fmt::format("{} does not take {}, only {}", request.path, request.method, match.allowed);
  send_now({.status = 405, .body = shared_->error_body(405, text), .headers = {{"Allow", match.allowed}}});
}

void HttpConnection::run_handler(HttpHandler handler, HttpRequest request) {
  auto writer = std::make_shared<ResponseWriter>(shared_from_this(), exchange_);
  asio::post(*shared_->handlers, [handler = std::move(handler), request = std::move(request),
                                  writer = std::move(writer)]() mutable {
    try {
      handler(request, writer);
    } catch (const std::exception& error) {
      // Libraries below may throw (out of memory); one request must not take the server down.
      LogError("http: {} {}: {}", request.method, request.path, error.what());
    }
  });
}

// Answers what cannot be answered by a handler, and closes: after a broken request the next one cannot be
// found.
void HttpConnection::answer_error(int status, const std::string& message) {
  if (state_ == State::kClosed || begun_) return close();
  keep_alive_ = false;
  state_ = State::kHandling;
  read_timer_.cancel();
  send_now({.status = status, .body = shared_->error_body(status, message)});
}

void HttpConnection::send_now(HttpResponse response) {
  if (state_ != State::kHandling || begun_) return;
  response.headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  begin_answer(response.status, response.content_type, std::move(response.headers));
  if (!head_) put(std::move(response.body));
  finish_answer();
}

void HttpConnection::begin_answer(int status, const std::string& content_type, HttpHeaders headers) {
  begun_ = true;
  headers.emplace_back("Content-Type", content_type);
  headers.emplace_back("Connection", keep_alive_ ? "keep-alive" : "close");
  put(HttpHead(status, HttpReason(status), headers));
  if (shared_->options.on_response) shared_->options.on_response(route_, status);
}

void HttpConnection::finish_answer() {
  finished_ = true;
  disconnect_callback_ = nullptr;
  if (writing_.empty() && outbox_.empty()) after_answer();
}

void HttpConnection::after_answer() {
  if (!keep_alive_ || shared_->stopping) return linger();
  begin_request();
  parse();
  start_read();
}

void HttpConnection::put(std::string bytes) {
  if (state_ == State::kClosed || bytes.empty()) return;
  unread_bytes_ += static_cast<int64_t>(bytes.size());
  outbox_ += bytes;
  if (writing_.empty()) {
    watch_writing();
    flush();
  }
}

void HttpConnection::flush() {
  if (writing_.empty()) {
    writing_.swap(outbox_);
    written_ = 0;
  }
  socket_.async_write_some(
      asio::buffer(writing_.data() + written_, writing_.size() - written_),
      [self = shared_from_this()](const ErrorCode& error, size_t bytes) { self->on_written(error, bytes); });
}

void HttpConnection::on_written(const ErrorCode& error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) return close();
  written_ += bytes;
  unread_bytes_ -= static_cast<int64_t>(bytes);
  if (written_ == writing_.size()) writing_.clear();
  if (!writing_.empty() || !outbox_.empty()) return flush();
  write_timer_.cancel();
  if (state_ == State::kHandling && finished_) after_answer();
}

void HttpConnection::linger() {
  if (input_ended_) return close();
  state_ = State::kLingering;
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  watch_reading(kLinger);
  start_read();
}

void HttpConnection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  gone_ = true;
  ErrorCode ignored;
  socket_.close(ignored);
  read_timer_.cancel();
  write_timer_.cancel();
  if (disconnect_callback_) std::exchange(disconnect_callback_, nullptr)();
}

void HttpConnection::watch_reading(Duration limit) {
  read_timer_.expires_after(limit);
  read_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    // A timer that was set again meanwhile calls with operation_aborted, or has its new expiry ahead.
    if (error || self->read_timer_.expiry() > Clock::now()) return;
    if (self->half_a_request()) return self->answer_error(408, "the request did not arrive in time");
    if (self->state_ != State::kHandling || self->input_ended_) self->close();
  });
}

// All that was sent must have been read once within the limit: a client that always lags behind is cut, too.
void HttpConnection::watch_writing() {
  write_timer_.expires_after(shared_->options.write_timeout);
  write_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (error || self->write_timer_.expiry() > Clock::now()) return;
    if (!self->writing_.empty()) self->close();
  });
}

ResponseWriter::ResponseWriter(std::shared_ptr<HttpConnection> connection, uint64_t exchange)
    : connection_(std::move(connection)), exchange_(exchange) {}
ResponseWriter::~ResponseWriter() {
  if (!complete_) connection_->abandon(exchange_);
}
void ResponseWriter::send(HttpResponse response) {
  complete_ = true;
  connection_->send(exchange_, std::move(response));
}
void ResponseWriter::begin_stream(int status, std::string content_type, HttpHeaders headers) {
  connection_->begin_stream(exchange_, status, std::move(content_type), std::move(headers));
}
bool ResponseWriter::write(std::string piece) { return connection_->write(exchange_, std::move(piece)); }
void ResponseWriter::end_stream() {
  complete_ = true;
  connection_->end_stream(exchange_);
}
void ResponseWriter::on_disconnect(std::function<void()> callback) {
  connection_->on_disconnect(exchange_, std::move(callback));
}
bool ResponseWriter::gone() const { return connection_->gone(); }

struct HttpServer::Impl {
  explicit Impl(HttpServerOptions options, std::vector<HttpRoute> routes)
      : shared(std::make_shared<HttpShared>()) {
    shared->handlers = std::make_unique<asio::thread_pool>(options.handler_threads);
    shared->options = std::move(options);
    shared->routes = std::move(routes);
  }

  absl::Status listen() {
    const HttpServerOptions& options = shared->options;
    ErrorCode error;
    tcp::resolver resolver(shared->io);
    const auto found = resolver.resolve(options.host, std::to_string(options.port),
                                        tcp::resolver::passive | tcp::resolver::numeric_service, error);
    if (error) return Unavailable("http: cannot resolve '{}': {}", options.host, error.message());
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return Unavailable("http: cannot listen on {}:{}: {}; choose another --host or --port", options.host,
                         options.port, error.message());
    }
    port = acceptor.local_endpoint().port();
    return absl::OkStatus();
  }

  void accept() {
    acceptor.async_accept(asio::make_strand(shared->io), [this](const ErrorCode& error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || shared->stopping) return;
      if (error) {  // Out of file descriptors, most likely: try again when some may be back.
        LogWarning("http: accept: {}", error.message());
        pause.expires_after(std::chrono::milliseconds(100));
        return pause.async_wait([this](const ErrorCode& stopped) {
          if (!stopped) accept();
        });
      }
      const int open = connections();
      auto connection = std::make_shared<HttpConnection>(std::move(socket), shared);
      if (open < shared->options.connections_max) {
        connection->start();
      } else {
        connection->refuse(
            503, fmt::format("{} clients are connected, which is the most this server takes", open));
      }
      accept();
    });
  }

  int connections() const {
    std::lock_guard lock(shared->mutex);
    return static_cast<int>(shared->open.size());
  }

  void for_each_connection(void (HttpConnection::*f)()) {
    std::vector<std::shared_ptr<HttpConnection>> alive;
    {
      std::lock_guard lock(shared->mutex);
      for (HttpConnection* connection : shared->open) {
        if (auto strong = connection->weak_from_this().lock()) alive.push_back(std::move(strong));
      }
    }
    for (const auto& connection : alive) ((*connection).*f)();
  }

  bool wait_empty(Deadline deadline) {
    std::unique_lock lock(shared->mutex);
    return shared->emptied.wait_until(lock, deadline.at, [&] { return shared->open.empty(); });
  }

  const std::shared_ptr<HttpShared> shared;
  asio::executor_work_guard<asio::io_context::executor_type> work{shared->io.get_executor()};
  tcp::acceptor acceptor{asio::make_strand(shared->io)};
  asio::steady_timer pause{acceptor.get_executor()};
  int port = 0;
  std::vector<std::thread> threads;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options,
                                                              std::vector<HttpRoute> routes) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(routes));
  RETURN_IF_ERROR(impl->listen());
  impl->accept();
  for (int i = 0; i < impl->shared->options.io_threads; ++i) {
    impl->threads.emplace_back([io = &impl->shared->io] { io->run(); });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() { stop(Duration{}); }

int HttpServer::port() const { return impl_->port; }
int HttpServer::connections() const { return impl_->connections(); }

void HttpServer::stop(Duration patience) {
  if (impl_->threads.empty()) return;
  impl_->shared->stopping = true;
  asio::post(impl_->acceptor.get_executor(), [impl = impl_.get()] {
    ErrorCode ignored;
    impl->acceptor.close(ignored);
    impl->pause.cancel();
  });
  impl_->for_each_connection(&HttpConnection::retire);
  if (!impl_->wait_empty(Deadline::after(patience))) {
    impl_->for_each_connection(&HttpConnection::cut);
    impl_->wait_empty(Deadline::after(std::chrono::seconds(5)));
  }
  impl_->shared->handlers->join();
  impl_->shared->stopped = true;
  impl_->work.reset();
  impl_->shared->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->threads.clear();
}

}  // namespace shoal
