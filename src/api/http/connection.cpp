#include "api/http/connection.h"

#include <exception>
#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace shoal {
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

}  // namespace shoal
