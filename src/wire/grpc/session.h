// Internal to the gRPC transport: one node's links of one session.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "wire/grpc/streams.h"
#include "wire/inbox.h"

namespace shoal {

/// Dials a stream to each peer it sends to, takes in the streams that peers dial, and tells each break once.
class GrpcSession final : public StreamOwner, public std::enable_shared_from_this<GrpcSession> {
 public:
  GrpcSession(SessionOptions session, GrpcOptions options, std::shared_ptr<GrpcLoop> loop);

  uint64_t id() const { return session_.session; }
  NodeId self() const { return session_.self; }
  bool closed() const;

  // As Transport.
  absl::Status connect(Deadline deadline);
  absl::Status send(NodeId to, Frame frame, Deadline deadline);
  absl::StatusOr<Event> receive(Deadline deadline) { return inbox_.receive(deadline); }
  absl::StatusOr<std::optional<Event>> take() { return inbox_.take(); }
  void share(std::shared_ptr<Wakeup> wakeup) { inbox_.share(std::move(wakeup)); }
  void wake() { inbox_.wake(); }
  TransportStats stats() const;
  void close(const absl::Status& reason);

  absl::StatusOr<Hello> hello(NodeId to) const override;
  std::string name_of(NodeId node) const override;
  void out_ready(NodeId to) override;
  void out_ended(NodeId to, const OutStream* stream, const absl::Status& error, bool was_ready) override;
  void in_ready(NodeId from, std::shared_ptr<InStream> stream) override;
  bool deliver(NodeId from, const InStream* stream, Frame frame) override;
  void in_ended(NodeId from, const InStream* stream, const absl::Status& error) override;

 private:
  struct Peer {
    PeerAddress address;
    std::shared_ptr<OutStream> out;
    std::shared_ptr<InStream> in;
    LinkStats sent;
    bool told_down = false;  // One kPeerDown per break, though both directions notice it.
    absl::Status last_error;
    Clock::time_point retry_at{};
    Duration backoff{0};
  };

  std::string text(NodeId node) const;
  absl::Status closed_error(NodeId to) const;
  /// The stream to `to`, dialled where there is none. Unavailable while a failed dial is too recent.
  absl::StatusOr<std::shared_ptr<OutStream>> link(NodeId to);
  absl::Status connect_to(NodeId to, Deadline deadline);
  void resume(NodeId from);
  void tell_down(NodeId node, Peer& peer, const absl::Status& error);

  const SessionOptions session_;
  const GrpcOptions options_;
  const std::shared_ptr<GrpcLoop> loop_;
  Inbox inbox_;
  mutable std::mutex mutex_;
  std::condition_variable closing_;
  std::map<NodeId, Peer> peers_;  // Without self. The keys never change.
  LinkStats sent_to_self_;
  bool closed_ = false;
};

}  // namespace shoal
