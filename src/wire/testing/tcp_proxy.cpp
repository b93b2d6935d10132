#include "wire/testing/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

namespace shoal {
namespace {

constexpr int kPollMs = 5;
constexpr int kMarkerRun = 32;

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int NewSocket() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  SHOAL_CHECK_GE(socket, 0);
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return socket;
}

}  // namespace

TcpProxy::TcpProxy(int target_port) : target_port_(target_port), listener_(NewSocket()) {
  sockaddr_in address = Loopback(0);
  SHOAL_CHECK_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  SHOAL_CHECK_EQ(listen(listener_, 16), 0);
  socklen_t size = sizeof address;
  SHOAL_CHECK_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { run(); });
}

TcpProxy::~TcpProxy() {
  stop_ = true;
  thread_.join();
  close_all();
  close(listener_);
}

void TcpProxy::close_all() {
  for (const Pair& pair : pairs_) {
    close(pair.client);
    close(pair.server);
  }
  pairs_.clear();
}

void TcpProxy::accept_one() {
  const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  const int server = NewSocket();
  const sockaddr_in target = Loopback(target_port_);
  if (mode_ == Mode::kCut ||
      connect(server, reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0) {
    close(client);
    close(server);
    return;
  }
  pairs_.push_back({client, server});
}

void TcpProxy::corrupt(char* data, long size) {
  int run = 0;
  for (long i = 0; i < size; ++i) {
    run = static_cast<unsigned char>(data[i]) == kMarker ? run + 1 : 0;
    if (run < kMarkerRun) continue;
    data[i] = static_cast<char>(data[i] ^ 0x04);
    corrupt_ = false;
    return;
  }
}

bool TcpProxy::relay(int from, int to, bool to_target) {
  char buffer[65536];
  const ssize_t size = recv(from, buffer, sizeof buffer, MSG_DONTWAIT);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (size == 0) return false;
  if (to_target && corrupt_) corrupt(buffer, size);
  for (ssize_t sent = 0; sent < size;) {
    pollfd writable{to, POLLOUT, 0};
    poll(&writable, 1, kPollMs);
    if (stop_ || mode_ != Mode::kRelay) return true;  // What was read is lost, as in a broken network.
    const ssize_t n = send(to, buffer + sent, static_cast<size_t>(size - sent), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (n > 0) sent += n;
  }
  return true;
}

void TcpProxy::run() {
  while (!stop_) {
    if (mode_ == Mode::kCut) close_all();
    std::vector<pollfd> polled{{listener_, POLLIN, 0}};
    if (mode_ == Mode::kRelay) {
      for (const Pair& pair : pairs_) {
        polled.push_back({pair.client, POLLIN, 0});
        polled.push_back({pair.server, POLLIN, 0});
      }
    }
    poll(polled.data(), polled.size(), kPollMs);
    std::vector<Pair> alive;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      bool ok = true;
      if (polled.size() > 1) {
        if (polled[1 + 2 * i].revents != 0) ok = relay(pairs_[i].client, pairs_[i].server, true);
        if (ok && polled[2 + 2 * i].revents != 0) ok = relay(pairs_[i].server, pairs_[i].client, false);
      }
      if (ok) {
        alive.push_back(pairs_[i]);
      } else {
        close(pairs_[i].client);
        close(pairs_[i].server);
      }
    }
    pairs_ = std::move(alive);
    if (polled[0].revents != 0) accept_one();
  }
}

}  // namespace shoal
