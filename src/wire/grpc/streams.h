// Internal to the gRPC transport: streams of frames, without a gRPC type, so that only in_stream.cpp sees
// gRPC.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "wire/grpc/endpoint.h"
#include "wire/handshake.h"

namespace shoal {

class GrpcLoop;
class InStream;
class OutStream;

/// What streams tell their session. Called by whoever polls the loop, without locks held.
class StreamOwner {
 public:
  virtual ~StreamOwner() = default;

  /// Our hello for a stream with `to`. FailedPrecondition where the session has no such node.
  virtual absl::StatusOr<Hello> hello(NodeId to) const = 0;
  /// How the session calls a node; "" where it has no such node.
  virtual std::string name_of(NodeId node) const = 0;

  virtual void out_ready(NodeId to) = 0;
  /// Once per dialled stream. `was_ready` tells a break from a failed dial.
  virtual void out_ended(NodeId to, const OutStream* stream, const absl::Status& error, bool was_ready) = 0;

  /// A stream from `from` passed its handshake; it replaces an earlier one.
  virtual void in_ready(NodeId from, std::shared_ptr<InStream> stream) = 0;
  /// False asks the stream to pause until resume(). Frames of a stream that was replaced are dropped.
  virtual bool deliver(NodeId from, const InStream* stream, Frame frame) = 0;
  /// Once per stream that was ready.
  virtual void in_ended(NodeId from, const InStream* stream, const absl::Status& error) = 0;
};

/// A stream that we dialled: frames leave here.
class OutStream {
 public:
  struct Config {
    PeerAddress peer;
    Hello hello;
    const GrpcOptions* options;  ///< Read by make() only.
    std::weak_ptr<StreamOwner> owner;
    std::shared_ptr<GrpcLoop> loop;
  };
  static std::shared_ptr<OutStream> make(const Config& config);
  virtual ~OutStream() = default;

  /// Dials. Called once, without locks held; the calls below may come before it.
  virtual void start() = 0;

  /// Waits for the end of the handshake.
  virtual absl::Status wait_ready(Deadline deadline) = 0;
  /// Queues a frame on a ready stream, waiting for room in its window.
  virtual absl::Status send(Frame frame, Deadline deadline) = 0;
  virtual void cancel(const absl::Status& why) = 0;
  /// Of the frames that were queued and are not written yet.
  virtual uint64_t bytes_waiting() const = 0;
};

/// A stream that a peer dialled: frames arrive here.
class InStream {
 public:
  virtual ~InStream() = default;
  /// The session of the stream's hello is open: answers it.
  virtual void proceed(std::shared_ptr<StreamOwner> owner) = 0;
  /// Reads on after a pause.
  virtual void resume() = 0;
  /// Ends the stream; the initiator gets `status`.
  virtual void finish(const absl::Status& status) = 0;
};

/// Finds the session of a stream that a peer dialled.
class StreamAcceptor {
 public:
  virtual ~StreamAcceptor() = default;
  /// Calls proceed() or finish() on `stream`, now or when its session opens.
  virtual void admit(std::shared_ptr<InStream> stream, const Hello& hello) = 0;
};

/// The listening port.
class FrameServer {
 public:
  static absl::StatusOr<std::unique_ptr<FrameServer>> start(const GrpcOptions& options,
                                                            std::shared_ptr<StreamAcceptor> acceptor);
  /// Cancels calls in progress and waits for their end, and for that of the dialled streams, which were
  /// cancelled before.
  virtual ~FrameServer() = default;
  virtual int port() const = 0;
  virtual std::shared_ptr<GrpcLoop> loop() const = 0;
};

}  // namespace shoal
