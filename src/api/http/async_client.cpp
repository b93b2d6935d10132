#include "api/http/async_client.h"

#include <array>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

// Last: Asio of Boost 1.74 uses std::exchange without its header.
#include <boost/asio.hpp>
#include <boost/beast/http.hpp>

#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr size_t kHeadBytesMax = 64 << 10;

/// What the exchanges of a client share.
struct Pool {
  asio::io_context io{1};  // One thread: nothing here is locked.
  std::string address;     // For messages.
  std::vector<tcp::endpoint> endpoints;
  std::vector<tcp::socket> idle;  // Connections whose last answer is complete, the newest last.
};

/// One request and its answer.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Pool& pool, std::string request, std::shared_ptr<HttpObserver> observer)
      : pool_(pool),
        request_(std::move(request)),
        observer_(std::move(observer)),
        socket_(pool.io),
        timer_(pool.io) {}

  void start(Deadline deadline) {
    timer_.expires_at(deadline.at);
    timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
      if (!error) self->end(HttpFailure::kTimedOut, "no whole answer in time");
    });
    parser_.emplace();
    parser_->eager(true);
    parser_->header_limit(kHeadBytesMax);
    parser_->body_limit(std::numeric_limits<uint64_t>::max());
    if (pool_.idle.empty()) return connect();
    socket_ = std::move(pool_.idle.back());
    pool_.idle.pop_back();
    reused_ = true;
    send();
  }

 private:
  void connect() {
    reused_ = false;
    socket_ = tcp::socket(pool_.io);
    asio::async_connect(socket_, pool_.endpoints,
                        [self = shared_from_this()](const ErrorCode& error, const tcp::endpoint&) {
                          if (self->ended_) return;
                          if (error) return self->end(HttpFailure::kNotConnected, error.message());
                          ErrorCode ignored;
                          self->socket_.set_option(tcp::no_delay(true), ignored);
                          self->send();
                        });
  }

  void send() {
    asio::async_write(socket_, asio::buffer(request_),
                      [self = shared_from_this()](const ErrorCode& error, size_t) {
                        // A server that refuses early may hang up while we send: its answer is worth reading.
                        if (!self->ended_) self->read(error);
                      });
  }

  void read(const ErrorCode& send_error) {
    socket_.async_read_some(asio::buffer(chunk_),
                            [self = shared_from_this(), send_error](const ErrorCode& error, size_t bytes) {
                              if (!self->ended_)
                                self->on_read(error ? (send_error ? send_error : error) : ErrorCode(), bytes);
                            });
  }

  void on_read(const ErrorCode& error, size_t bytes) {
    if (error) return on_read_error(error);
    inbox_.append(chunk_.data(), bytes);
    ErrorCode wrong;
    while (!inbox_.empty() && !parser_->is_done() && !wrong) {
      const size_t used = parser_->put(asio::buffer(inbox_), wrong);
      inbox_.erase(0, used);
      if (used == 0) break;
    }
    if (wrong && wrong != http::error::need_more) return end(HttpFailure::kNotHttp, wrong.message());
    deliver();
    if (ended_) return;
    if (parser_->is_done()) return finish();
    read({});
  }

  void on_read_error(const ErrorCode& error) {
    // The server may close a kept connection at any time: only a new one tells whether it answers.
    if (reused_ && !parser_->got_some()) return connect();
    ErrorCode wrong;
    if (error == asio::error::eof && parser_->got_some()) {
      parser_->put_eof(wrong);
      if (!wrong && parser_->is_done()) {
        deliver();
        return finish();
      }
    }
    end(HttpFailure::kHungUp, error.message());
  }

  /// Hands on what has come of the answer.
  void deliver() {
    if (!parser_->is_header_done()) return;
    if (!std::exchange(head_told_, true)) observer_->on_head(static_cast<int>(parser_->get().result_int()));
    std::string& body = parser_->get().body();
    if (body.empty()) return;
    observer_->on_body(body);
    body.clear();
  }

  void finish() {
    if (parser_->keep_alive() && inbox_.empty()) pool_.idle.push_back(std::move(socket_));
    end(HttpFailure::kNone, "");
  }

  void end(HttpFailure failure, const std::string& why) {
    if (std::exchange(ended_, true)) return;
    timer_.cancel();
    ErrorCode ignored;
    socket_.close(ignored);
    const std::shared_ptr<HttpObserver> observer = std::exchange(observer_, nullptr);
    observer->on_end(failure, why.empty() ? why : fmt::format("{}: {}", pool_.address, why));
  }

  Pool& pool_;
  const std::string request_;
  std::shared_ptr<HttpObserver> observer_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  std::optional<http::response_parser<http::string_body>> parser_;
  std::array<char, 4 << 10> chunk_;
  std::string inbox_;  // Received, not parsed.
  bool reused_ = false;
  bool head_told_ = false;
  bool ended_ = false;
};

}  // namespace

struct AsyncHttpClient::Impl {
  Options options;
  Pool pool;
};

AsyncHttpClient::AsyncHttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AsyncHttpClient::~AsyncHttpClient() = default;

absl::StatusOr<std::unique_ptr<AsyncHttpClient>> AsyncHttpClient::Create(Options options) {
  auto impl = std::make_unique<Impl>();
  impl->pool.address = HostPort{options.host, options.port}.to_string();
  ErrorCode error;
  tcp::resolver resolver(impl->pool.io);
  const auto found = resolver.resolve(options.host, std::to_string(options.port), error);
  if (error) return Unavailable("cannot resolve '{}': {}", options.host, error.message());
  for (const auto& one : found) impl->pool.endpoints.push_back(one.endpoint());
  impl->options = std::move(options);
  return std::unique_ptr<AsyncHttpClient>(new AsyncHttpClient(std::move(impl)));
}

void AsyncHttpClient::post(const std::string& path, const std::string& json, Deadline deadline,
                           std::shared_ptr<HttpObserver> observer) {
  std::string request = fmt::format(
      "POST {}{} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
      impl_->options.prefix, path, impl_->pool.address, json.size());
  for (const auto& [name, value] : impl_->options.headers) request += fmt::format("{}: {}\r\n", name, value);
  request += "\r\n" + json;
  std::make_shared<Exchange>(impl_->pool, std::move(request), std::move(observer))->start(deadline);
}

void AsyncHttpClient::call_at(Clock::time_point time, std::function<void()> f) {
  auto timer = std::make_shared<asio::steady_timer>(impl_->pool.io, time);
  timer->async_wait([timer, f = std::move(f)](const ErrorCode& error) {
    if (!error) f();
  });
}

void AsyncHttpClient::run() {
  impl_->pool.io.restart();
  impl_->pool.io.run();
  impl_->pool.idle.clear();
}

}  // namespace shoal
