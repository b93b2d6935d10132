#include "api/http/server.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <thread>

#include "api/http/connection.h"
#include "base/log.h"
#include "base/log_throttle.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

/// After accept() failed, which it would again at once.
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);
/// A client's first bytes come a round trip after it was accepted: where pausing will do, it is not taken for
/// an idle one before.
constexpr Duration kFirstBytesGrace = std::chrono::milliseconds(500);
constexpr Duration kLogInterval = std::chrono::seconds(10);

}  // namespace

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
    // The rest is for files, and for the nodes of the cluster.
    const auto most = static_cast<int>(std::min<int64_t>(options.connections_max, DescriptorLimit() / 2));
    options.connections_max = most;
    options.connections_per_address_max = std::min(options.connections_per_address_max, most - most / 8);
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
      if (error) return accept_failed(error);
      if (std::exchange(failing, false)) LogInfo("http: port {}: accepts connections again", port);
      take(std::move(socket));
      accept();
    });
  }

  // Out of file descriptors, most likely: tries again when some may be back.
  void accept_failed(const ErrorCode& error) {
    const bool room = shared->dismiss_one("", kFirstBytesGrace);
    const bool told =
        failures.warn(fmt::format("http: port {}: accept: {}{}", port, error.message(),
                                  room ? "; closing a connection that waits for its client" : ""));
    failing = failing || told;
    pause.expires_after(kAcceptPause);
    pause.async_wait([this](const ErrorCode& stopped) {
      if (!stopped) accept();
    });
  }

  void take(tcp::socket socket) {
    ErrorCode gone;
    const tcp::endpoint peer = socket.remote_endpoint(gone);
    if (gone) return;  // It left before we looked.
    std::string network = HttpNetworkOf(peer.address());
    const bool admitted = shared->admit(network);
    if (!admitted) {
      full.warn(
          fmt::format("http: port {}: {} connections are open; one more from {} gets urgent answers only",
                      port, connections(), peer.address().to_string()));
      shared->bound_reserved();
    }
    std::make_shared<HttpConnection>(std::move(socket), shared, std::move(network), !admitted)->start();
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
  bool failing = false;  // accept() failed, and the log says so. As the others, of the acceptor's strand.
  LogThrottle failures{kLogInterval};
  LogThrottle full{kLogInterval};
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
