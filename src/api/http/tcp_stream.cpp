#include "api/http/tcp_stream.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/status.h"
#include "base/system_calls.h"

namespace shoal {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

}  // namespace

absl::StatusOr<TcpStream> TcpStream::Connect(const std::string& host, int port, Deadline deadline) {
  const std::string peer = fmt::format("{}:{}", host, port);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* raw = nullptr;
  const int failed = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &raw);
  if (failed != 0) return Unavailable("cannot resolve {}: {}", peer, gai_strerror(failed));
  const std::unique_ptr<addrinfo, FreeAddresses> list(raw);
  absl::Status last = Unavailable("{} has no address", peer);
  for (const addrinfo* one = raw; one != nullptr; one = one->ai_next) {
    FileHandle socket = OpenSocket(one->ai_family, one->ai_socktype, one->ai_protocol);
    const int fd = socket.fd();
    if (fd < 0) continue;
    TcpStream stream(std::move(socket), peer);
    if (connect(fd, one->ai_addr, one->ai_addrlen) != 0 && errno != EINPROGRESS) {
      last = Unavailable("cannot connect to {}: {}", peer, std::strerror(errno));
      continue;
    }
    last = stream.wait(POLLOUT, deadline, "connect to");
    if (!last.ok()) continue;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      last = Unavailable("cannot connect to {}: {}", peer, std::strerror(error));
      continue;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return stream;
  }
  return last;
}

absl::Status TcpStream::wait(short events, Deadline deadline, std::string_view what) const {
  while (true) {
    pollfd one{.fd = socket_.fd(), .events = events, .revents = 0};
    const int64_t left = std::min<int64_t>(deadline.remaining_ms(), 1 << 30);
    const int ready = poll(&one, 1, static_cast<int>(left));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return Unavailable("cannot {} {}: {}", what, peer_, std::strerror(errno));
    if (deadline.expired()) return DeadlineExceeded("could not {} {} in time", what, peer_);
  }
}

absl::Status TcpStream::start_tls(std::shared_ptr<const TlsContext> context, const std::string& server_name,
                                  Deadline deadline) {
  tls_ = std::make_unique<TlsSession>(std::move(context), server_name);
  RETURN_IF_ERROR(send_raw(tls_->take_output(), deadline));
  while (!tls_->established()) RETURN_IF_ERROR(receive_tls(deadline));
  return absl::OkStatus();
}

absl::Status TcpStream::receive_tls(Deadline deadline) {
  ASSIGN_OR_RETURN(const std::string bytes, receive_raw(deadline));
  if (bytes.empty()) return Unavailable("{} ended the connection without ending TLS", peer_);
  const absl::Status taken = tls_->receive(bytes, plain_);
  RETURN_IF_ERROR(send_raw(tls_->take_output(), deadline));
  return taken.ok() ? taken : Annotate(taken, peer_);
}

absl::Status TcpStream::send_all(std::string_view bytes, Deadline deadline) {
  if (tls_ == nullptr) return send_raw(bytes, deadline);
  tls_->send(bytes);
  return send_raw(tls_->take_output(), deadline);
}

absl::StatusOr<std::string> TcpStream::receive(Deadline deadline) {
  if (tls_ == nullptr) return receive_raw(deadline);
  while (plain_.empty() && !tls_->peer_closed()) RETURN_IF_ERROR(receive_tls(deadline));
  return std::exchange(plain_, std::string());
}

absl::Status TcpStream::send_raw(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      RETURN_IF_ERROR(wait(POLLOUT, deadline, "send to"));
    } else if (errno != EINTR) {
      return Unavailable("cannot send to {}: {}", peer_, std::strerror(errno));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TcpStream::receive_raw(Deadline deadline) {
  std::array<char, 16 << 10> buffer;
  while (true) {
    RETURN_IF_ERROR(wait(POLLIN, deadline, "receive from"));
    const ssize_t got = recv(socket_.fd(), buffer.data(), buffer.size(), 0);
    if (got >= 0) return std::string(buffer.data(), static_cast<size_t>(got));
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) continue;
    return Unavailable("cannot receive from {}: {}", peer_, std::strerror(errno));
  }
}

void TcpStream::close_sending() {
  if (tls_ != nullptr) {
    tls_->close();
    (void)send_raw(tls_->take_output(), Deadline::after_ms(0));  // A courtesy.
  }
  shutdown(socket_.fd(), SHUT_WR);
}

void TcpStream::shrink_receive_buffer() {
  const int bytes = 4096;
  setsockopt(socket_.fd(), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

}  // namespace shoal
