// Frames over gRPC streams: one bidirectional stream per ordered pair of nodes, dialled by the sender, raw
// bytes both ways. No gRPC type leaves the .cpp files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "wire/cluster_key.h"
#include "wire/handshake.h"
#include "wire/transport.h"

namespace grpc {
class Service;
}

namespace shoal {

struct GrpcOptions {
  std::string listen = "127.0.0.1:0";  ///< HOST:PORT; port 0 picks one. A port in use is an error.
  std::string name;                    ///< Of this process, for messages.
  /// Streams of a node without it are refused, and the other way round. With a certificate all of the port speaks TLS.
  ClusterKey key;
  /// Callers without a certificate are let in, too: a service among `services` gives them theirs, and all others refuse them.
  bool enrols = false;
  /// Control-plane services to serve on the same port. Not owned; they must outlive the endpoint.
  std::vector<grpc::Service*> services;
  FrameLimits limits;   ///< payload_bytes_max up to 1 GiB.
  WindowLimits window;  ///< Per peer, in each direction.
  /// From a stream's first byte to kReady. A stream for a session that is not open yet waits as long.
  Duration handshake_timeout = std::chrono::seconds(5);
  /// Connections to the port, never more than half of the process's descriptors. Those that say nothing are
  /// closed first where there is no room for another.
  int connections_max = 1024;
  int connections_per_address_max = 512;
  /// HTTP/2 pings: a peer that answers none for interval + timeout is down, whatever its sockets say.
  Duration keepalive_interval = std::chrono::seconds(2);
  Duration keepalive_timeout = std::chrono::seconds(4);
};

struct PeerAddress {
  NodeId node;
  std::string name;     ///< For messages.
  std::string address;  ///< HOST:PORT of its endpoint.
};

struct SessionOptions {
  uint64_t session = 0;  ///< Chosen by the coordinator, never used twice.
  NodeId self;
  std::vector<PeerAddress> peers;  ///< An entry for self is ignored.
  SessionIdentity identity;
};

/// A process's listening port and the sessions that its nodes take part in: any number at a time, each as one
/// or several nodes of a plan.
class GrpcEndpoint {
 public:
  /// Listens. InvalidArgument: bad address or limits. Unavailable: the port cannot be bound.
  static absl::StatusOr<std::unique_ptr<GrpcEndpoint>> start(GrpcOptions options);
  /// Ends the sessions, cancels calls in progress and waits for their end.
  ~GrpcEndpoint();

  int port() const;

  /// The transport may outlive the endpoint, which closes it. InvalidArgument: peers are not distinct, or
  /// have no usable address. FailedPrecondition: the session was open here before, as this node.
  absl::StatusOr<std::unique_ptr<Transport>> open_session(SessionOptions options);

 private:
  class Impl;
  explicit GrpcEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
