#include "api/http/connection.h"

#include <algorithm>
#include <exception>
#include <map>
#include <tuple>
#include <utility>

#include "api/http/routing.h"
#include "base/log.h"
#include "base/log_format.h"
#include "base/process.h"
#include "base/random.h"
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
/// A request that has been arriving for less is not given up for another's sake.
constexpr int64_t kReceivingNs = 1'000'000'000;
/// Beyond connections_max, for urgent routes; and how long each may take to say what it wants.
constexpr int kReservedMax = 16;
constexpr Duration kReservedTimeout = std::chrono::seconds(2);
constexpr size_t kRequestIdBytesMax = 128;

/// What a client calls its request, if that can stand in a header and in a line of the log.
std::string RequestId(std::string_view given) {
  const bool usable = !given.empty() && given.size() <= kRequestIdBytesMax && IsPrintable(given);
  return usable ? std::string(given) : fmt::format("req-{:016x}", EntropySeed());
}

}  // namespace

std::string HttpNetworkOf(const asio::ip::address& address) {
  if (address.is_v4()) return address.to_v4().to_string();
  const asio::ip::address_v6 v6 = address.to_v6();
  if (v6.is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, v6).to_string();
  const auto bytes = v6.to_bytes();
  return std::string(bytes.begin(), bytes.begin() + 8);
}

bool HttpShared::admit(const std::string& network) {
  int taken = 0;
  int from_there = 0;
  {
    const std::lock_guard lock(mutex);
    for (const HttpConnection* one : open) {
      if (one->reserved() || one->activity() == HttpActivity::kClosing) continue;
      ++taken;
      if (one->network() == network) ++from_there;
    }
  }
  if (from_there >= options.connections_per_address_max) return dismiss_one(network, {});
  return taken < options.connections_max || dismiss_one("", {});
}

HttpConnection* HttpShared::to_dismiss(const std::string& network, int64_t since_ns) {
  const auto fits = [&](const HttpConnection* one) {
    if (one->reserved() || one->since_ns() > since_ns) return false;
    if (!network.empty() && one->network() != network) return false;
    const HttpActivity activity = one->activity();
    return activity < HttpActivity::kReceiving ||
           (activity == HttpActivity::kReceiving && NowNs() - one->since_ns() >= kReceivingNs);
  };
  std::map<std::string_view, int> count;  // Who has most of them can spare one.
  for (const HttpConnection* one : open) {
    if (fits(one)) ++count[one->network()];
  }
  HttpConnection* best = nullptr;
  const auto rank = [&](const HttpConnection* one) {
    return std::tuple(one->activity(), -count[one->network()], one->since_ns());
  };
  for (HttpConnection* one : open) {
    if (fits(one) && (best == nullptr || rank(one) < rank(best))) best = one;
  }
  return best;
}

bool HttpShared::dismiss_one(const std::string& network, Duration at_least) {
  std::shared_ptr<HttpConnection> one;
  {
    const std::lock_guard lock(mutex);
    HttpConnection* found = to_dismiss(network, NowNs() - at_least.count());
    if (found != nullptr) one = found->weak_from_this().lock();
  }
  if (one == nullptr) return false;
  one->dismiss();
  return true;
}

void HttpShared::bound_reserved() {
  std::shared_ptr<HttpConnection> oldest;
  {
    const std::lock_guard lock(mutex);
    int count = 0;
    HttpConnection* found = nullptr;
    for (HttpConnection* one : open) {
      if (!one->reserved()) continue;
      ++count;
      if (found == nullptr || one->since_ns() < found->since_ns()) found = one;
    }
    if (count >= kReservedMax) oldest = found->weak_from_this().lock();
  }
  if (oldest != nullptr) oldest->cut();
}

void HttpShared::announce(std::shared_ptr<HttpConnection> connection) {
  if (stopped) return;
  bool first = false;
  {
    const std::lock_guard lock(announced_mutex_);
    first = announced_.empty();
    announced_.push_back(std::move(connection));
  }
  if (!first) return;
  asio::post(io, [this] {
    std::vector<std::shared_ptr<HttpConnection>> ready;
    {
      const std::lock_guard lock(announced_mutex_);
      ready.swap(announced_);
    }
    for (const auto& one : ready) one->serve_pieces();
  });
}

void HttpShared::forget_announced() {
  std::vector<std::shared_ptr<HttpConnection>> ready;
  const std::lock_guard lock(announced_mutex_);
  ready.swap(announced_);
}

void HttpConnection::enter(HttpActivity activity) {
  activity_ = activity;
  since_ns_ = NowNs();
}

void HttpConnection::begin_request() {
  state_ = State::kReading;
  ++exchange_;
  begun_ = finished_ = continue_sent_ = chunked_ = head_ = false;
  http_version_ = 11;
  route_.clear();
  request_id_.clear();
  request_line_.clear();
  admin_.reset();
  origin_headers_.clear();
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(static_cast<uint32_t>(shared_->options.header_bytes_max));
  parser_->body_limit(static_cast<uint64_t>(shared_->options.body_bytes_max));
  if (reserved_) return watch_reading(kReservedTimeout);
  if (tls_.has_value() && !tls_->established()) return watch_reading(shared_->options.request_timeout);
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
  const size_t before = inbox_.size();
  if (!take_bytes(bytes)) return;
  if (state_ == State::kReading && inbox_.size() > before) {
    if (first) enter(HttpActivity::kReceiving);
    if (first && !reserved_) watch_reading(shared_->options.request_timeout);
    parse();
  }
  if (tls_.has_value() && tls_->peer_closed() && !input_ended_ && state_ != State::kClosed)
    return on_end_of_input(asio::error::eof);
  start_read();
}

// What came into the inbox. False where the connection was closed, or is answered, for what came.
bool HttpConnection::take_bytes(size_t bytes) {
  if (!tls_.has_value()) {
    inbox_.append(chunk_.data(), bytes);
    return true;
  }
  if (bytes > 0 && !std::exchange(tls_began_, true) && !BeginsTls(chunk_[0])) {
    tls_.reset();
    inbox_.append(chunk_.data(), bytes);  // Half a request, which is answered.
    start_read();
    answer_error(400, "this port speaks HTTPS: write https:// in place of http://");
    return false;
  }
  return decrypt({chunk_.data(), bytes});
}

bool HttpConnection::decrypt(std::string_view bytes) {
  const absl::Status taken = tls_->receive(bytes, inbox_);
  put_raw(tls_->take_output());  // Of the handshake, or why it is over.
  if (!taken.ok()) {
    LogDebug("http: from {}: {}", peer_, Message(taken));
    close();
    return false;
  }
  return state_ != State::kClosed;
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
  enter(HttpActivity::kAnswering);
  http_version_ = message.version();
  keep_alive_ = message.keep_alive() && !shared_->stopping && !reserved_;
  HttpRequest request{.method = std::string(message.method_string())};
  head_ = request.method == "HEAD";
  if (const auto wrong = read_request(std::move(message), request)) return answer_error(400, *wrong);
  route(std::move(request));
}

// Says what is wrong with the request, as far as every server must refuse it.
std::optional<std::string> HttpConnection::read_request(Parser::value_type message, HttpRequest& request) {
  const std::string target(message.target());
  const size_t hosts = message.count(http::field::host);
  for (const auto& field : message) {
    request.headers.emplace_back(LowerCase(std::string_view(field.name_string())),
                                 std::string(field.value()));
  }
  request.body = std::move(message.body());
  request.id = request_id_ = RequestId(request.header("x-request-id"));
  origin_headers_ = shared_->origins.answer_headers(request);
  if (hosts > 1 || (hosts == 0 && http_version_ >= 11)) {
    return fmt::format("expected one Host header, as HTTP/1.1 requires, got {}", hosts);
  }
  HttpTarget parsed;
  if (!ParseHttpTarget(target, parsed)) {
    return fmt::format("the target '{}' is no path, or has a broken percent escape", target);
  }
  if (parsed.path == "*" && request.method != "OPTIONS") return "only OPTIONS takes the target '*'";
  request.path = std::move(parsed.path);
  request.query = std::move(parsed.query);
  request_line_ = fmt::format("{} {}", request.method, request.path);
  return std::nullopt;
}

// Refusals from here on leave the connection usable: the request itself was well formed.
void HttpConnection::route(HttpRequest request) {
  RouteMatch match = FindRoute(shared_->routes, request.method, request.path);
  if (match.known != nullptr) route_ = match.known->path;
  if (reserved_ && (match.route == nullptr || !match.route->urgent)) {
    return answer_error(503, "all connections that this server takes are being answered; try again later");
  }
  if (match.known == nullptr && request.path != "*") {
    return refuse({404, fmt::format("there is nothing at {} {}", request.method, request.path), {}});
  }
  if (match.route == nullptr && request.method == "OPTIONS") return answer_options(request, match.allowed);
  if (match.route == nullptr) {
    const std::string text =
        fmt::format("{} does not take {}, only {}", request.path, request.method, match.allowed);
    return refuse({405, text, {{"Allow", match.allowed}}});
  }
  request.path = std::move(match.path);
  if (match.route->admin) {
    admin_ = AdminCall{.request_id = request.id,
                       .caller = "",
                       .peer = peer_,
                       .method = request.method,
                       .path = request.path,
                       .subject = {}};
  }
  if (const auto why = shared_->origins.refuse(request, tls_.has_value())) return refuse({403, *why, {}});
  if (auto wrong = CheckBodyType(request)) return refuse(*std::move(wrong));
  if (shared_->options.admit && !match.route->open) {
    HttpAdmission admission = shared_->options.admit(request);
    if (admission.refusal.has_value()) return send_now(*std::move(admission.refusal));
    request.caller = std::move(admission.caller);
    if (admin_.has_value()) admin_->caller = request.caller;
    held_ = std::move(admission.held);
  }
  run_handler(*match.route, std::move(request));
}

void HttpConnection::answer_options(const HttpRequest& request, const std::string& allowed) {
  HttpHeaders headers = {{"Allow", allowed}};
  if (OriginPolicy::IsPreflight(request)) {
    HttpHeaders granted = shared_->origins.preflight_headers(request, allowed);
    if (granted.empty()) {
      return refuse({403,
                     "web pages of this origin may not use this server; its operator can allow them with "
                     "--cors-origins",
                     {}});
    }
    headers.insert(headers.end(), granted.begin(), granted.end());
  }
  send_now({.status = 204, .content_type = "", .headers = std::move(headers)});
}

void HttpConnection::refuse(HttpRefusal refusal) {
  send_now({.status = refusal.status,
            .body = shared_->error_body(refusal.status, refusal.message),
            .headers = std::move(refusal.headers)});
}

void HttpConnection::run_handler(const HttpRoute& route, HttpRequest request) {
  std::shared_ptr<void> place;  // Among the requests to slow routes, until the handler has returned.
  if (route.slow) {
    if (++shared_->slow_requests > shared_->options.slow_requests_max) {
      --shared_->slow_requests;
      return refuse({503,
                     fmt::format("{} questions that take long are being answered; try again soon",
                                 shared_->options.slow_requests_max),
                     {{"Retry-After", "1"}}});
    }
    place = {shared_.get(), [shared = shared_](void*) { --shared->slow_requests; }};
  }
  auto writer = std::make_shared<ResponseWriter>(shared_from_this(), exchange_, request.caller);
  writer->set_origin({.id = request.id,
                      .name = fmt::format("{} {}", request.method, route.path),
                      .traceparent = std::string(request.header("traceparent")),
                      .received = Clock::now()});
  auto run = [shared = shared_, handler = route.handler, request = std::move(request),
              writer = std::move(writer), place = std::move(place)]() mutable {
    if (place != nullptr && writer->gone()) return;  // It waited in vain: nobody wants it any more.
    const LogRequest named(request.id);
    try {
      if (auto wrong = DecodeBody(request, shared->options.body_bytes_max)) {
        return writer->send({.status = wrong->status,
                             .body = shared->error_body(wrong->status, wrong->message),
                             .headers = std::move(wrong->headers)});
      }
      const auto repeat_key = RepeatKeyOf(request);
      if (!repeat_key.has_value()) {
        return writer->send({.status = 400, .body = shared->error_body(400, repeat_key.error())});
      }
      writer->set_repeat_key(*repeat_key);
      handler(request, std::move(writer));
    } catch (const std::exception& error) {
      // Libraries below may throw (out of memory); one request must not take the server down.
      LogError("http: {}: {} {}: {}", request.id, request.method, request.path, error.what());
    }
  };
  if (route.urgent) return run();
  asio::post(route.slow ? *shared_->slow_handlers : *shared_->handlers, [run = std::move(run)]() mutable {
    NameThread("http-handler");
    run();
  });
}

// Answers what cannot be answered by a handler, and closes: after a broken request the next one cannot be
// found.
void HttpConnection::answer_error(int status, const std::string& message) {
  if (state_ == State::kClosed || begun_) return close();
  keep_alive_ = false;
  state_ = State::kHandling;
  enter(HttpActivity::kAnswering);
  read_timer_.cancel();
  HttpResponse response{.status = status, .body = shared_->error_body(status, message)};
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  send_now(std::move(response));
}

void HttpConnection::send_now(HttpResponse response) {
  if (state_ != State::kHandling || begun_) return;
  if (response.status != 204 && response.status != 304) {
    response.headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  }
  begin_answer(response.status, response.content_type, std::move(response.headers));
  if (!head_) put(std::move(response.body));
  finish_answer();
}

void HttpConnection::begin_answer(int status, const std::string& content_type, HttpHeaders headers) {
  begun_ = true;
  if (request_id_.empty()) request_id_ = RequestId("");  // Nothing could be read.
  if (!content_type.empty()) headers.emplace_back("Content-Type", content_type);
  headers.emplace_back("Date", HttpDate(UnixSeconds()));
  headers.emplace_back("X-Request-Id", request_id_);
  headers.emplace_back("Connection", keep_alive_ ? "keep-alive" : "close");
  headers.insert(headers.end(), origin_headers_.begin(), origin_headers_.end());
  AddSecurityHeaders(headers);
  put(HttpHead(status, HttpReason(status), headers));
  const LogRequest named(request_id_);
  LogDebug("http: {}: {} from {}: {}", request_id_, request_line_, peer_, status);
  if (status >= 500 && request_line_.starts_with("POST ")) {
    shared_->failures.warn(
        fmt::format("http: {}: {} from {}: {}", request_id_, request_line_, peer_, status));
  }
  if (shared_->options.on_response) shared_->options.on_response(route_, status);
  if (admin_.has_value() && shared_->options.on_admin) {
    admin_->status = status;
    shared_->options.on_admin(*admin_);
  }
}

// For browsers: no guessing of types, and nothing that an answer shows as a page may load more or be framed. A handler that
// serves a page says otherwise itself. No Strict-Transport-Security: it would bind all other ports of the host, too.
void HttpConnection::AddSecurityHeaders(HttpHeaders& headers) {
  const auto add = [&headers](std::string_view name, const char* value) {
    const auto same = [&](const auto& header) { return LowerCase(header.first) == LowerCase(name); };
    if (std::ranges::none_of(headers, same)) headers.emplace_back(name, value);
  };
  add("X-Content-Type-Options", "nosniff");
  add("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'");
  add("Referrer-Policy", "no-referrer");
}

void HttpConnection::finish_answer() {
  finished_ = true;
  disconnect_callback_ = nullptr;
  held_.reset();
  // Not at once: the next request may be here already, and its answer must not stand on the stack of this one.
  if (writing_.empty()) {
    post([this, exchange = exchange_] {
      if (exchange == exchange_ && state_ == State::kHandling && finished_) after_answer();
    });
  }
}

void HttpConnection::after_answer() {
  if (!keep_alive_ || shared_->stopping) return linger();
  enter(inbox_.empty() ? HttpActivity::kIdle : HttpActivity::kReceiving);
  begin_request();
  parse();
  start_read();
}

// Whether the I/O threads must be told.
bool HttpConnection::add_piece(uint64_t exchange, std::string_view piece) {
  const std::lock_guard lock(pieces_mutex_);
  if (exchange < pieces_of_) {  // Its answer has ended: nobody wants more of it.
    posted_bytes_ -= static_cast<int64_t>(piece.size());
    return false;
  }
  pieces_of_ = exchange;
  pieces_ += piece;
  return !std::exchange(announced_, true);
}

void HttpConnection::take_pieces() {
  std::string pieces;
  uint64_t exchange = 0;
  {
    const std::lock_guard lock(pieces_mutex_);
    pieces.swap(pieces_);
    exchange = pieces_of_;
    announced_ = false;
  }
  posted_bytes_ -= static_cast<int64_t>(pieces.size());
  if (pieces.empty() || head_ || !answering(exchange) || !begun_) return;
  put(chunked_ ? HttpChunk(pieces) : std::move(pieces));
}

void HttpConnection::put(std::string bytes) {
  if (state_ == State::kClosed || bytes.empty()) return;
  if (!tls_.has_value()) return put_raw(std::move(bytes));
  tls_->send(bytes);
  put_raw(tls_->take_output());
}

void HttpConnection::put_raw(std::string bytes) {
  if (state_ == State::kClosed || bytes.empty()) return;
  unread_bytes_ += static_cast<int64_t>(bytes.size());
  if (!writing_.empty()) {
    outbox_ += bytes;
    return;
  }
  writing_ = std::move(bytes);
  written_ = 0;
  flush();
  if (state_ != State::kClosed && !writing_.empty()) watch_writing();
}

// Most output fits the socket's buffer, and is written at once: waiting for the socket costs as much again.
void HttpConnection::flush() {
  while (!writing_.empty()) {
    ErrorCode error;
    const size_t bytes =
        socket_.write_some(asio::buffer(writing_.data() + written_, writing_.size() - written_), error);
    if (error == asio::error::would_block || error == asio::error::try_again) return await_room();
    if (error) return close();
    written_ += bytes;
    unread_bytes_ -= static_cast<int64_t>(bytes);
    if (written_ < writing_.size()) continue;
    writing_.clear();
    writing_.swap(outbox_);
    written_ = 0;
  }
}

void HttpConnection::await_room() {
  socket_.async_wait(tcp::socket::wait_write, [self = shared_from_this()](const ErrorCode& error) {
    if (self->state_ == State::kClosed) return;
    if (error) return self->close();
    self->flush();
    if (self->state_ == State::kClosed || !self->writing_.empty()) return;
    self->write_timer_.cancel();
    if (self->state_ == State::kHandling && self->finished_) self->after_answer();
  });
}

void HttpConnection::linger() {
  if (tls_.has_value()) {  // An end that nobody could have forged.
    tls_->close();
    put_raw(tls_->take_output());
  }
  if (state_ == State::kClosed || input_ended_) return close();
  state_ = State::kLingering;
  enter(HttpActivity::kLingering);
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  watch_reading(kLinger);
  start_read();
}

void HttpConnection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  enter(HttpActivity::kClosing);
  gone_ = true;
  held_.reset();
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
