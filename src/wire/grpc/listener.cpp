#include "wire/grpc/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "tls/session.h"

namespace shoal {
namespace {

/// How an HTTP/2 client begins (RFC 9113, section 3.4).
constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Second byte of a TLS client (RFC 8446, section 5.1).
constexpr char kTlsMajor = 3;
/// After accept() failed the listening socket stays readable: without a pause this would spin.
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);
/// A client's first bytes come a round trip after it was accepted: so long it is not taken for a silent one
/// where descriptors are short and pausing will do.
constexpr Duration kFirstBytesGrace = std::chrono::milliseconds(500);
/// Accepted in a row, before those that came earlier are looked at again.
constexpr int kBatch = 64;
constexpr Duration kSleepMax = std::chrono::seconds(60);
constexpr Duration kLogInterval = std::chrono::seconds(10);

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using AddressList = std::unique_ptr<addrinfo, FreeAddresses>;

/// Options that only ever make things better: an error changes nothing.
void SetOption(int fd, int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); }

bool Prepare(int fd) { return fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0; }

/// Network and port of a socket's address.
std::pair<std::string, int> Identify(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return {std::string(reinterpret_cast<const char*>(&v4.sin_addr), 4), ntohs(v4.sin_port)};
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  const char* bytes = reinterpret_cast<const char*>(&v6.sin6_addr);
  return {IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) ? std::string(bytes + 12, 4) : std::string(bytes, 8),
          ntohs(v6.sin6_port)};
}

/// A listening socket; -1 and errno where there is none.
int ListenOn(int family, const sockaddr* address, socklen_t size) {
  const int fd = ::socket(family, SOCK_STREAM, 0);
  if (fd < 0) return -1;
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (family == AF_INET6) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (Prepare(fd) && bind(fd, address, size) == 0 && ::listen(fd, SOMAXCONN) == 0) return fd;
  const int error = errno;
  ::close(fd);
  errno = error;
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return Identify(address).second;
}

void SetPort(sockaddr* address, int port) {
  const uint16_t value = htons(static_cast<uint16_t>(port));
  if (address->sa_family == AF_INET) reinterpret_cast<sockaddr_in*>(address)->sin_port = value;
  if (address->sa_family == AF_INET6) reinterpret_cast<sockaddr_in6*>(address)->sin6_port = value;
}

/// A failure of accept() that lasts until something is given back, rather than one of a single connection.
bool LacksResources(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

Listener::Listener(ListenerOptions options)
    : options_(std::move(options)),
      refusals_(kLogInterval),
      failures_(kLogInterval),
      strangers_(kLogInterval) {}

Listener::~Listener() {
  if (wake_[1] >= 0) ::close(wake_[1]);  // The thread sees the end of the pipe.
  if (thread_.joinable()) thread_.join();
  for (const Connection& one : waiting_) ::close(one.fd);
  for (const int fd : listeners_) ::close(fd);
  if (wake_[0] >= 0) ::close(wake_[0]);
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(ListenerOptions options) {
  std::unique_ptr<Listener> listener(new Listener(std::move(options)));
  RETURN_IF_ERROR(listener->bind_all());
  if (pipe(listener->wake_) != 0) return Unavailable("cannot make a pipe: {}", std::strerror(errno));
  return listener;
}

absl::Status Listener::bind_all() {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(options_.address));
  const bool wildcard = at.host == "0.0.0.0" || at.host == "::";
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* host = wildcard ? "::" : at.host.c_str();
  int failed = getaddrinfo(host, std::to_string(at.port).c_str(), &hints, &found);
  if (failed != 0) return Unavailable("cannot listen on {}: {}", options_.address, gai_strerror(failed));
  AddressList list(found);
  int error = 0;
  port_ = at.port;
  for (addrinfo* one = list.get(); one != nullptr; one = one->ai_next) {
    SetPort(one->ai_addr, port_);
    const int fd = ListenOn(one->ai_family, one->ai_addr, one->ai_addrlen);
    if (fd < 0) {
      error = errno;
      if (error == EADDRINUSE) break;  // Half a name's addresses would be a lottery.
      continue;
    }
    listeners_.push_back(fd);
    port_ = PortOf(fd);
  }
  if (wildcard && listeners_.empty() && error != EADDRINUSE) {  // No IPv6 here.
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = htons(static_cast<uint16_t>(at.port));
    const int fd = ListenOn(AF_INET, reinterpret_cast<const sockaddr*>(&any), sizeof any);
    error = errno;
    if (fd >= 0) {
      listeners_.push_back(fd);
      port_ = PortOf(fd);
    }
  }
  if (!listeners_.empty() && error != EADDRINUSE) return absl::OkStatus();
  return Unavailable("cannot listen on {}: {}: the port is in use, or the host is not this machine",
                     options_.address, std::strerror(error));
}

void Listener::start(std::function<void(int fd)> take) {
  take_ = std::move(take);
  thread_ = std::thread([this] { run(); });
}

void Listener::run() {
  NameThread("grpc-listener");
  while (poll_once()) {
  }
}

// False once the listener is being destroyed.
bool Listener::poll_once() {
  std::vector<pollfd> sockets = {{.fd = wake_[0], .events = POLLIN, .revents = 0}};
  const auto now = Clock::now();
  auto wake = now + kSleepMax;
  const bool paused = accept_again_ > now;
  if (paused) wake = std::min(wake, accept_again_);
  for (const int fd : listeners_) sockets.push_back({.fd = paused ? -1 : fd, .events = POLLIN, .revents = 0});
  for (const Connection& one : waiting_) sockets.push_back({.fd = one.fd, .events = POLLIN, .revents = 0});
  if (!waiting_.empty()) wake = std::min(wake, waiting_.front().since + options_.preface_timeout);
  const int64_t left = Deadline{wake}.remaining_ms();
  const int ready = poll(sockets.data(), sockets.size(), static_cast<int>(left));
  if (sockets[0].revents != 0) return false;
  if (ready > 0) {
    read_prefaces();
    for (size_t i = 0; i < listeners_.size(); ++i) {
      if (sockets[1 + i].revents != 0) accept_all(listeners_[i]);
    }
  }
  drop_late();
  return true;
}

void Listener::read_prefaces() {
  std::erase_if(waiting_, [this](const Connection& one) { return !read_preface(one); });
}

bool Listener::read_preface(const Connection& connection) {
  std::array<char, kPreface.size()> bytes;
  const ssize_t got = recv(connection.fd, bytes.data(), bytes.size(), MSG_PEEK);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return true;
  const std::string_view said(bytes.data(), got < 0 ? 0 : static_cast<size_t>(got));
  const bool whole = said.size() == bytes.size();
  const bool plain = said == kPreface;
  const bool tls = whole && BeginsTls(said[0]) && said[1] == kTlsMajor;
  if (!(options_.tls ? tls : plain)) {
    // A node of another mind, most likely: its own error says less than this line.
    if (plain)
      strangers_.warn(fmt::format("port {}: refused a node without TLS: start it with --tls-dir", port_));
    if (tls)
      strangers_.warn(fmt::format("port {}: refused a node with TLS: start this one with --tls-dir", port_));
    ::close(connection.fd);
    return false;
  }
  SetOption(connection.fd, SOL_SOCKET, SO_RCVLOWAT, 1);
  taken_.push_back(connection);
  take_(connection.fd);
  return false;
}

void Listener::accept_all(int listener) {
  for (int i = 0; i < kBatch; ++i) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    const int fd = accept(listener, reinterpret_cast<sockaddr*>(&address), &size);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (LacksResources(errno) && !after_failure(errno)) return;
      continue;  // Of this connection only: aborted, unreachable, ...
    }
    if (std::exchange(failing_, false)) LogInfo("port {}: accepts connections again", port_);
    auto [network, port] = Identify(address);
    const Peer peer{std::move(network), port};
    if (!Prepare(fd) || !make_room(peer)) {
      ::close(fd);
      continue;
    }
    SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    // Readable when the whole preface is there: less of it would wake this thread over and over.
    SetOption(fd, SOL_SOCKET, SO_RCVLOWAT, static_cast<int>(kPreface.size()));
    waiting_.push_back({fd, peer, Clock::now()});
  }
}

bool Listener::after_failure(int error) {
  const bool room = drop_one("", kFirstBytesGrace);
  const bool told = failures_.warn(fmt::format("port {}: accept: {}{}", port_, std::strerror(error),
                                               room ? "; closed a connection that never said anything" : ""));
  failing_ = failing_ || told;
  if (!room) accept_again_ = Clock::now() + kAcceptPause;
  return room;
}

bool Listener::make_room(const Peer& peer) {
  std::erase_if(taken_, [](const Connection& one) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    if (getpeername(one.fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return true;
    auto [network, port] = Identify(address);  // The descriptor may be another connection's by now.
    return !(Peer{std::move(network), port} == one.peer);
  });
  const auto of_peer = [&](const Connection& one) { return one.peer.network == peer.network; };
  const auto open = std::ssize(waiting_) + std::ssize(taken_);
  const auto from_there = std::ranges::count_if(waiting_, of_peer) + std::ranges::count_if(taken_, of_peer);
  if (from_there >= options_.per_address_max && !drop_one(peer.network, {})) {
    refusals_.warn(fmt::format(
        "port {}: refused a connection: {} are open from its address, the most allowed", port_, from_there));
    return false;
  }
  if (open >= options_.connections_max && !drop_one("", {})) {
    refusals_.warn(fmt::format("port {}: refused a connection: {} are open, the most allowed", port_, open));
    return false;
  }
  return true;
}

bool Listener::drop_one(std::string_view network, Duration at_least) {
  read_prefaces();  // Not one that has spoken meanwhile.
  std::map<std::string_view, int64_t> count;
  for (const Connection& one : waiting_) ++count[one.peer.network];
  if (count.empty()) return false;
  if (network.empty()) {
    network = std::ranges::max_element(count, {}, [](const auto& entry) { return entry.second; })->first;
  }
  const auto oldest =
      std::ranges::find(waiting_, network, [](const Connection& one) { return one.peer.network; });
  if (oldest == waiting_.end() || oldest->since + at_least > Clock::now()) return false;
  ::close(oldest->fd);
  waiting_.erase(oldest);
  return true;
}

void Listener::drop_late() {
  const auto limit = Clock::now() - options_.preface_timeout;
  while (!waiting_.empty() && waiting_.front().since <= limit) {
    ::close(waiting_.front().fd);
    waiting_.erase(waiting_.begin());
  }
}

}  // namespace shoal
