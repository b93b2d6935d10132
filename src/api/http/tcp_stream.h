// A connected TCP socket with deadlines, blocking; the client's side of the API.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/file_handle.h"
#include "tls/session.h"

namespace shoal {

class TcpStream {
 public:
  /// Unavailable or DeadlineExceeded, naming the address.
  static absl::StatusOr<TcpStream> Connect(const std::string& host, int port, Deadline deadline);
  TcpStream(TcpStream&&) noexcept = default;
  TcpStream& operator=(TcpStream&&) = delete;

  /// From now on what is sent and received is TLS. server_name: whom the server's certificate is to name.
  /// Unauthenticated: it is refused. DataLoss: the peer speaks no TLS. Unavailable or DeadlineExceeded as Connect().
  /// All name the address.
  absl::Status start_tls(std::shared_ptr<const TlsContext> context, const std::string& server_name,
                         Deadline deadline);

  absl::Status send_all(std::string_view bytes, Deadline deadline);
  /// Some bytes; "" at the peer's end of stream.
  absl::StatusOr<std::string> receive(Deadline deadline);
  /// Tells the peer that nothing more will be sent.
  void close_sending();
  /// Shrinks the receive buffer, so that a peer notices soon that nobody reads (tests).
  void shrink_receive_buffer();

 private:
  TcpStream(FileHandle socket, std::string peer) : socket_(std::move(socket)), peer_(std::move(peer)) {}
  absl::Status send_raw(std::string_view bytes, Deadline deadline);
  absl::StatusOr<std::string> receive_raw(Deadline deadline);
  /// Some more bytes, or the end, of a TLS stream.
  absl::Status receive_tls(Deadline deadline);
  absl::Status wait(short events, Deadline deadline, std::string_view what) const;

  FileHandle socket_;
  std::string peer_;
  std::unique_ptr<TlsSession> tls_;
  std::string plain_;  // Received, not handed out.
};

}  // namespace shoal
