// For tests: a TCP relay between two nodes that can go silent, break, or flip a bit, which no gRPC option can
// do.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace shoal {

/// Listens on 127.0.0.1:port() and relays each connection to 127.0.0.1:target.
class TcpProxy {
 public:
  explicit TcpProxy(int target_port);
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;

  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  /// Closes all connections and refuses new ones until heal().
  void cut() { mode_ = Mode::kCut; }
  /// Keeps connections open and moves nothing, until heal().
  void go_silent() { mode_ = Mode::kSilent; }
  void heal() { mode_ = Mode::kRelay; }
  /// Flips a bit in the next run of at least 32 bytes kMarker that goes to the target.
  void corrupt_next() { corrupt_ = true; }

  static constexpr unsigned char kMarker = 0xee;

 private:
  enum class Mode { kRelay, kSilent, kCut };
  struct Pair {
    int client;
    int server;
  };

  void run();
  void accept_one();
  void close_all();
  /// False where the connection has ended.
  bool relay(int from, int to, bool to_target);
  void corrupt(char* data, long size);

  const int target_port_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<Mode> mode_{Mode::kRelay};
  std::atomic<bool> corrupt_{false};
  std::atomic<bool> stop_{false};
  std::vector<Pair> pairs_;
  std::thread thread_;
};

}  // namespace shoal
