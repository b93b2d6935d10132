// A connected TCP socket with deadlines, blocking; the client's side of the API.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

class TcpStream {
 public:
  /// Unavailable or DeadlineExceeded, naming the address.
  static absl::StatusOr<TcpStream> Connect(const std::string& host, int port, Deadline deadline);
  ~TcpStream();
  TcpStream(TcpStream&& other) noexcept : fd_(std::exchange(other.fd_, -1)), peer_(std::move(other.peer_)) {}
  TcpStream& operator=(TcpStream&&) = delete;

  absl::Status send_all(std::string_view bytes, Deadline deadline);
  /// Some bytes; "" at the peer's end of stream.
  absl::StatusOr<std::string> receive(Deadline deadline);
  /// Tells the peer that nothing more will be sent.
  void close_sending();
  /// Shrinks the receive buffer, so that a peer notices soon that nobody reads (tests).
  void shrink_receive_buffer();

 private:
  TcpStream(int fd, std::string peer) : fd_(fd), peer_(std::move(peer)) {}
  absl::Status wait(short events, Deadline deadline, std::string_view what) const;

  int fd_;
  std::string peer_;
};

}  // namespace shoal
