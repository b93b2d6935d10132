// Internal to the gRPC transport: the listening sockets, and connections until they have begun as HTTP/2
// does. gRPC's own acceptor ends for ever, without a word, when accept() fails once, as it does when the
// process has no descriptor left; and it bounds neither connections nor those that never say anything.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/log_throttle.h"

namespace shoal {

struct ListenerOptions {
  /// HOST:PORT; port 0 picks one. "0.0.0.0" and "::" are every address of either family.
  std::string address = "127.0.0.1:0";
  /// From its beginning to the first bytes that an HTTP/2 client sends; then a connection is closed.
  Duration preface_timeout = std::chrono::seconds(5);
  bool tls = false;  ///< Connections begin with TLS; else at once as HTTP/2.
  int connections_max = 1024;
  int per_address_max = 512;  ///< Of one IPv4 address, or one IPv6 network of 64 bits.
};

/// Accepts on a thread of its own. Where there is no room for another connection, by these limits or by the
/// process's descriptors, the oldest of those that have not said anything is closed.
class Listener {
 public:
  /// Listens. InvalidArgument: bad address. Unavailable: the host is unknown, or the port cannot be bound.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(ListenerOptions options);
  ~Listener();
  Listener(const Listener&) = delete;

  int port() const { return port_; }

  /// Hands each connection that began as HTTP/2 to `take`, which owns the descriptor from then on. Nothing
  /// of it has been read. Called once.
  void start(std::function<void(int fd)> take);

 private:
  struct Peer {
    std::string network;  ///< What per_address_max counts.
    int port = 0;
    bool operator==(const Peer&) const = default;
  };
  struct Connection {
    int fd;
    Peer peer;
    Clock::time_point since;
  };

  explicit Listener(ListenerOptions options);
  absl::Status bind_all();
  void run();
  bool poll_once();
  void accept_all(int listener);
  /// Whether to accept again at once.
  bool after_failure(int error);
  bool make_room(const Peer& peer);
  /// Closes the oldest connection that waits and is of `network` ("": of the one that has most of them), if
  /// it has waited for so long.
  bool drop_one(std::string_view network, Duration at_least);
  void drop_late();
  /// Hands on, or closes, what has said enough.
  void read_prefaces();
  /// Whether the connection is to wait for more.
  bool read_preface(const Connection& connection);

  const ListenerOptions options_;
  int port_ = 0;
  std::vector<int> listeners_;
  int wake_[2] = {-1, -1};  // A pipe: its end ends the thread.
  std::function<void(int fd)> take_;
  std::vector<Connection> waiting_;  // For their first bytes; ours. Oldest first.
  std::vector<Connection> taken_;    // Their owner's: only looked at.
  Clock::time_point accept_again_{};
  bool failing_ = false;  // And the log says so.
  LogThrottle refusals_;
  LogThrottle failures_;
  LogThrottle strangers_;
  std::thread thread_;
};

}  // namespace shoal
