// TLS apart from sockets: bytes of the network in, bytes of the program out, and the other way round. Whoever owns a socket
// keeps its own way of waiting for it, and can still count what lies unsent.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

/// What the connections of one side have in common: certificates, versions. TLS 1.2 and later; no renegotiation.
class TlsContext {
 public:
  /// A server that asks its clients for no certificate. Both as PEM; the certificate may be followed by others of its
  /// chain. place: the files, for messages. InvalidArgument where they are none, or not of each other.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Server(const std::string& certificate,
                                                                  const std::string& key,
                                                                  const std::string& place);
  /// A client that believes the authorities in `authority` (PEM), or, where that is empty, those of the system and of
  /// SSL_CERT_FILE.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Client(const std::string& authority = "");
  ~TlsContext();

 private:
  friend class TlsSession;
  struct Impl;
  explicit TlsContext(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// One connection. Not thread-safe.
class TlsSession {
 public:
  /// server_name: of a client, whom the server's certificate is to name; a name or an IP address. Empty for a server.
  explicit TlsSession(std::shared_ptr<const TlsContext> context, const std::string& server_name = "");
  ~TlsSession();
  TlsSession(TlsSession&&) noexcept;

  /// Takes what came from the network, and appends to `plain` what the peer sent. Afterwards output() may have something,
  /// for an error, too: it tells the peer. Unauthenticated: a certificate that is refused; DataLoss: no TLS, or broken.
  absl::Status receive(std::string_view bytes, std::string& plain);
  /// What is to be sent to the peer; kept until the handshake is done.
  void send(std::string_view plain);
  /// Tells the peer that nothing more will be sent.
  void close();
  /// What is to go to the network now.
  std::string take_output();

  bool established() const;
  /// The peer said that it sends nothing more.
  bool peer_closed() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Whether a connection that begins with this byte can be TLS.
bool BeginsTls(char first);

}  // namespace shoal
