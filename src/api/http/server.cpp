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
constexpr int kPortAttempts = 10;

}  // namespace

ResponseWriter::ResponseWriter(std::shared_ptr<HttpConnection> connection, uint64_t exchange,
                               std::string caller)
    : connection_(std::move(connection)), exchange_(exchange), caller_(std::move(caller)) {}
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
bool ResponseWriter::write(std::string_view piece) { return connection_->write(exchange_, piece); }
void ResponseWriter::end_stream() {
  complete_ = true;
  connection_->end_stream(exchange_);
}
void ResponseWriter::on_disconnect(std::function<void()> callback) {
  connection_->on_disconnect(exchange_, std::move(callback));
}
void ResponseWriter::set_subject(AdminSubject subject) {
  connection_->set_subject(exchange_, std::move(subject));
}
bool ResponseWriter::gone() const { return connection_->gone(); }

namespace {

/// One address that a server listens on. What it has belongs to its strand.
struct Acceptor {
  explicit Acceptor(asio::io_context& io) : acceptor(asio::make_strand(io)) {}

  /// `one_of_several`: of IPv6 it takes only what is not for another.
  ErrorCode open(const tcp::endpoint& endpoint, bool one_of_several) {
    ErrorCode error;
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error && one_of_several && endpoint.address().is_v6()) {
      acceptor.set_option(asio::ip::v6_only(true), error);
    }
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    return error;
  }

  tcp::acceptor acceptor;
  asio::steady_timer pause{acceptor.get_executor()};
  bool failing = false;  // accept() failed, and the log says so.
};

}  // namespace

struct HttpServer::Impl {
  explicit Impl(HttpServerOptions options, std::vector<HttpRoute> routes)
      : shared(std::make_shared<HttpShared>()) {
    shared->handlers = std::make_unique<asio::thread_pool>(options.handler_threads);
    shared->slow_handlers = std::make_unique<asio::thread_pool>(options.slow_threads);
    // The rest is for files, and for the nodes of the cluster.
    const auto most = static_cast<int>(std::min<int64_t>(options.connections_max, DescriptorLimit() / 2));
    options.connections_max = most;
    options.connections_per_address_max = std::min(options.connections_per_address_max, most - most / 8);
    shared->origins = OriginPolicy(options.cors_origins);
    shared->options = std::move(options);
    shared->routes = std::move(routes);
  }

  absl::Status listen() {
    // Where the system chooses the port, its choice for the first address may be taken at another.
    absl::Status status = absl::OkStatus();
    for (int attempt = 0; attempt < kPortAttempts; ++attempt) {
      status = listen_once();
      if (status.ok() || shared->options.port != 0) return status;
    }
    return status;
  }

  absl::Status listen_once() {
    acceptors.clear();
    port = shared->options.port;
    absl::Status refused = absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<tcp::endpoint> endpoints, resolve());
    for (tcp::endpoint endpoint : endpoints) {
      endpoint.port(static_cast<uint16_t>(port));
      auto acceptor = std::make_unique<Acceptor>(shared->io);
      const ErrorCode error = acceptor->open(endpoint, endpoints.size() > 1);
      if (error) {
        refused = Unavailable("http: cannot listen on {}:{}: {}; choose another --host or --port",
                              endpoint.address().to_string(), port, error.message());
        // A machine without IPv6 has names with such addresses, all the same.
        const bool absent = error == asio::error::address_family_not_supported ||
                            error == boost::system::errc::address_not_available;
        if (!absent) return refused;
        LogInfo("{}", Message(refused));
        continue;
      }
      port = acceptor->acceptor.local_endpoint().port();
      acceptors.push_back(std::move(acceptor));
    }
    return acceptors.empty() ? refused : absl::OkStatus();
  }

  /// The addresses of all hosts.
  absl::StatusOr<std::vector<tcp::endpoint>> resolve() {
    std::vector<std::string> hosts;
    for (const std::string& host : shared->options.hosts) {
      if (host != "localhost") hosts.push_back(host);
      // Not all systems say so, but their clients try both.
      if (host == "localhost") hosts.insert(hosts.end(), {"127.0.0.1", "::1"});
    }
    std::vector<tcp::endpoint> endpoints;
    tcp::resolver resolver(shared->io);
    for (const std::string& host : hosts) {
      ErrorCode error;
      const auto found =
          resolver.resolve(host, "0", tcp::resolver::passive | tcp::resolver::numeric_service, error);
      if (error) return Unavailable("http: cannot resolve --host '{}': {}", host, error.message());
      for (const auto& one : found) {
        if (std::ranges::count(endpoints, one.endpoint()) == 0) endpoints.push_back(one.endpoint());
      }
    }
    if (endpoints.empty())
      return InvalidArgument("http: expected at least one --host to listen on, got none");
    return endpoints;
  }

  void accept(Acceptor& from) {
    from.acceptor.async_accept(asio::make_strand(shared->io),
                               [this, &from](const ErrorCode& error, tcp::socket socket) {
                                 if (error == asio::error::operation_aborted || shared->stopping) return;
                                 if (error) return accept_failed(from, error);
                                 if (std::exchange(from.failing, false))
                                   LogInfo("http: port {}: accepts connections again", port);
                                 take(std::move(socket));
                                 accept(from);
                               });
  }

  // Out of file descriptors, most likely: tries again when some may be back.
  void accept_failed(Acceptor& from, const ErrorCode& error) {
    const bool room = shared->dismiss_one("", kFirstBytesGrace);
    const bool told =
        failures.warn(fmt::format("http: port {}: accept: {}{}", port, error.message(),
                                  room ? "; closing a connection that waits for its client" : ""));
    from.failing = from.failing || told;
    from.pause.expires_after(kAcceptPause);
    from.pause.async_wait([this, &from](const ErrorCode& stopped) {
      if (!stopped) accept(from);
    });
  }

  void take(tcp::socket socket) {
    ErrorCode gone;
    const tcp::endpoint peer = socket.remote_endpoint(gone);
    if (gone) return;  // It left before we looked.
    const bool admitted = shared->admit(HttpNetworkOf(peer.address()));
    if (!admitted) {
      full.warn(
          fmt::format("http: port {}: {} connections are open; one more from {} gets urgent answers only",
                      port, connections(), peer.address().to_string()));
      shared->bound_reserved();
    }
    std::make_shared<HttpConnection>(std::move(socket), shared, peer.address(), !admitted)->start();
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
  std::vector<std::unique_ptr<Acceptor>> acceptors;
  int port = 0;
  LogThrottle failures{kLogInterval};
  LogThrottle full{kLogInterval};
  std::vector<std::thread> threads;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options,
                                                              std::vector<HttpRoute> routes) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(routes));
  RETURN_IF_ERROR(impl->listen());
  for (const auto& acceptor : impl->acceptors) impl->accept(*acceptor);
  for (int i = 0; i < impl->shared->options.io_threads; ++i) {
    impl->threads.emplace_back([io = &impl->shared->io] {
      NameThread("http-io");
      io->run();
    });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() { stop(Duration{}); }

int HttpServer::port() const { return impl_->port; }
int HttpServer::connections() const { return impl_->connections(); }

void HttpServer::stop(Duration patience) {
  if (impl_->threads.empty()) return;
  impl_->shared->stopping = true;
  for (const auto& acceptor : impl_->acceptors) {
    asio::post(acceptor->acceptor.get_executor(), [one = acceptor.get()] {
      ErrorCode ignored;
      one->acceptor.close(ignored);
      one->pause.cancel();
    });
  }
  impl_->for_each_connection(&HttpConnection::retire);
  if (!impl_->wait_empty(Deadline::after(patience))) {
    impl_->for_each_connection(&HttpConnection::cut);
    impl_->wait_empty(Deadline::after(std::chrono::seconds(5)));
  }
  impl_->shared->handlers->join();
  impl_->shared->slow_handlers->join();
  impl_->shared->stopped = true;
  impl_->work.reset();
  impl_->shared->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->threads.clear();
  impl_->shared->forget_announced();
}

}  // namespace shoal
